"""Tests whether a score is better than guessing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

# The score of guessing on a whole benchmark (0..100), for results that do not give it for their own examples.
CHANCE = {
    "bbh": 26.24,
    "mmlu_pro": 11.09,
    "arc_challenge": 25.02,
    "gpqa": 25.0,
    "gpqa_main": 25.0,
    "gpqa_diamond": 25.0,
}
# Metrics of a recipe's tasks that an answer given always can meet: 1 where the answer equals a reference, else 0.
MATCHES = ("exact_match", "final_answer")
CHANCE_LEVEL = 0.05  # a score is at chance level unless guessing reaches it with a smaller probability


def binomial_tail(hits: int, n: int, chance: float) -> float:
    """The probability of at least `hits` right answers among `n` guesses, each right with probability `chance`."""
    if hits <= 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    k = np.arange(hits, n + 1)
    choose = math.lgamma(n + 1) - np.array([math.lgamma(i + 1) + math.lgamma(n - i + 1) for i in k])
    return float(min(1.0, np.exp(choose + k * math.log(chance) + (n - k) * math.log1p(-chance)).sum()))


def commonest_share(references: Sequence[Sequence[str]]) -> float:
    """The score (0..1) of always giving the commonest reference. `references`: those of each example; white space is
    normalised, as by the metrics in `MATCHES`. 0 without examples."""
    counts = Counter(text for one in references for text in {" ".join(text.split()) for text in one})
    return max(counts.values(), default=0) / max(1, len(references))


def chance_warning(name: str, scores: Sequence[float], chance: float) -> str | None:
    """A warning where the number of right answers (scores of 0 and 1) is explained by guessing, else None.

    `chance` is 0..1. Where it differs between examples, their mean makes the test slightly conservative.
    """
    n, hits = len(scores), round(sum(scores))
    if not n or any(score not in (0, 1) for score in scores):
        return None
    p = binomial_tail(hits, n, chance)
    if p <= CHANCE_LEVEL:
        return None
    return (
        f"{name} is at chance level: {100 * hits / n:.2f} with {n} examples, where guessing gives {100 * chance:.2f} "
        f"(p = {p:.2g}); differences from it mean little"
    )
