"""How varied a set of texts is: self-BLEU, repeated texts, nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tutelage.synthesis.near_duplicates import minhash
from tutelage.synthesis.words import words

_BLEU_TEXTS = 100


def variety_of(texts: Sequence[str]) -> dict[str, float | None]:
    """distinct-n: different n-grams of words over all of them. self-BLEU (0..100): the mean BLEU of a text against the
    others, at most 100 texts; lower is more varied."""
    split = [words(text) for text in texts]
    out: dict[str, float | None] = {}
    for n in (1, 2, 3):
        grams = [tuple(text[i : i + n]) for text in split for i in range(len(text) - n + 1)]
        out[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else None
    out["self_bleu"] = self_bleu([" ".join(text) for text in split[:_BLEU_TEXTS]])
    return out


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean of sacrebleu's sentence scores of each text against all others, whose n-grams are counted once."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    if len(texts) < 2:
        return None
    counted = [extract_all_word_ngrams(text, 1, 4) for text in texts]
    highest: dict[tuple[str, ...], list[int]] = {}  # the two highest counts of an n-gram in one text
    for grams, _ in counted:
        for gram, count in grams.items():
            highest[gram] = sorted((*highest.get(gram, (0, 0)), count), reverse=True)[:2]
    scores = []
    for i, (grams, length) in enumerate(counted):
        found, total = [0] * 4, [0] * 4
        for gram, count in grams.items():
            most, second = highest[gram]
            total[len(gram) - 1] += count
            found[len(gram) - 1] += min(count, second if count == most else most)  # of the others
        lengths = [other for j, (_, other) in enumerate(counted) if j != i]
        closest = min(lengths, key=lambda other: (abs(other - length), other))
        score = BLEU.compute_bleu(found, total, length, closest, smooth_method="exp", effective_order=True)
        scores.append(score.score)
    return sum(scores) / len(scores)


def hashes_of(texts: Sequence[str]) -> np.ndarray:
    """The MinHash of each text, [texts, permutations]."""
    return np.array([minhash(words(text)).hashvalues for text in texts])


def nearest(texts: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """The estimated similarity of each text to the most similar one of `others` (None: of the rest), [texts].

    Texts are given by their hashes.
    """
    if len(texts) < (2 if others is None else 1) or (others is not None and not len(others)):
        return np.zeros(0)
    out = np.zeros(len(texts))
    for i, row in enumerate(texts):
        same = ((texts if others is None else others) == row).mean(axis=1)
        if others is None:
            same[i] = 0.0
        out[i] = same.max()
    return out
