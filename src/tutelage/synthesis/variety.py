"""How varied a set of texts is: distinct-n, self-BLEU, similarity to the nearest other text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tutelage.synthesis.near_duplicates import minhash
from tutelage.synthesis.words import words

_BLEU_TEXTS = 100


def variety_of(texts: Sequence[str]) -> dict[str, float | None]:
    """distinct-n (0..1, for n = 1, 2, 3) and self-BLEU (0..100, of the first 100 texts) of a set of texts.

    distinct-n: different n-grams of words divided by all, None without any; higher is more varied. self-BLEU: lower is.
    """
    texts_words = [words(text) for text in texts]
    out: dict[str, float | None] = {}
    for n in (1, 2, 3):
        grams = [tuple(text[i : i + n]) for text in texts_words for i in range(len(text) - n + 1)]
        out[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else None
    out["self_bleu"] = self_bleu([" ".join(text) for text in texts_words[:_BLEU_TEXTS]])
    return out


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean of sacrebleu's sentence BLEU (0..100) of each text with all others as references; None for one text.

    The n-grams of each text are counted once, not once per pair.
    """
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
            found[len(gram) - 1] += min(count, second if count == most else most)  # the highest count in another text
        lengths = [other for j, (_, other) in enumerate(counted) if j != i]
        closest = min(lengths, key=lambda other: (abs(other - length), other))
        score = BLEU.compute_bleu(found, total, length, closest, smooth_method="exp", effective_order=True)
        scores.append(score.score)
    return sum(scores) / len(scores)


def hashes_of(texts: Sequence[str]) -> np.ndarray:
    """The MinHash values of each text, [texts, permutations]."""
    return np.array([minhash(words(text)).hashvalues for text in texts])


def nearest(texts: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """The estimated Jaccard similarity of each text to the most similar one of `others`, [texts].

    Both arguments are arrays of `hashes_of`; `others` None means the other texts. Empty if there is none to compare.
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
