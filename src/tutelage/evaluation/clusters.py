"""Scores of examples that were drawn in groups: weighted means and their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.statistics import Scores

if TYPE_CHECKING:
    pass


def cluster_scores(records: Sequence[ExampleRecord], name: str, metric: Metric) -> Scores:
    """One run's values of independent draws, [C] in the scores' unit; nan for a cluster without a scored part."""
    source = metric.source or name
    by_tokens = lower_is_better(name)  # a loss is a mean over tokens
    chosen = [r for r in records if not metric.of_groups or r.group in metric.of_groups]
    sizes: dict[str, int] = {}
    units: list[tuple[int, float, str, float]] = []  # cluster, weight, group, score
    numbers: dict[str, int] = {}
    for place, record in enumerate(chosen):
        cluster = record.group if metric.cluster == "group" else str(place)
        number = numbers.setdefault(cluster, len(numbers))
        parts = [part["scores"][source] for part in record.parts if source in part["scores"]]
        for score in parts or [record.scores.get(source)]:
            if score is not None:
                units.append((number, record.tokens if by_tokens else 1, record.group, score))
                sizes[record.group] = sizes.get(record.group, 0) + 1
    values_C = np.full(len(numbers), np.nan)
    if not units:
        return values_C
    weights_U = np.array([w / sizes[group] if metric.equal_groups else float(w) for _, w, group, _ in units])
    of_U, scores_U = np.array([unit[0] for unit in units]), np.array([unit[3] for unit in units])
    totals_C = np.bincount(of_U, weights=weights_U, minlength=len(numbers))
    sums_C = np.bincount(of_U, weights=weights_U * scores_U, minlength=len(numbers))
    there = totals_C > 0
    mean = sums_C.sum() / totals_C.sum()
    values_C[there] = mean + (sums_C - mean * totals_C)[there] / totals_C[there].mean()
    # rounded, so that clusters without a difference count as such and not by their rounding errors
    return np.asarray(np.round(values_C, 12), dtype=np.float64)


def widening(clusters: int) -> float:
    """The factor on the spread of G resampled clusters that keeps intervals as wide as they must be when G is small:
    √(G / (G − 1)) · t / z at 97.5 %, t with G − 1 degrees of freedom by the expansion in 1 / (G − 1). 1 below two."""
    if clusters < 2:
        return 1.0
    z, v = 1.959963984540054, clusters - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return math.sqrt(clusters / v) * t / z


@dataclass(frozen=True)
class Metric:
    """How a metric is averaged. `source` names the examples' score it is made of, where that is another name."""

    source: str = ""
    cluster: Literal["example", "group"] = "example"  # what was drawn as one: the unit of the standard error
    equal_groups: bool = False  # the mean of the groups' means, instead of the mean of all examples
    of_groups: tuple[str, ...] = ()  # only the examples of these groups


def scores_of(record: ExampleRecord, metric: str) -> list[float]:
    """The scored parts' scores of a metric that stands for parts, else the example's own score; [] where unscored."""
    parts = [part["scores"][metric] for part in record.parts if metric in part["scores"]]
    if not parts:
        parts = [record.scores.get(metric)]
    return [score for score in parts if score is not None]


def clustered_standard_error(scores: ArrayLike, clusters: Sequence[str], weights: ArrayLike | None = None) -> float:
    """Standard error of the weighted mean of scores [N] when whole clusters were drawn, not single scores.

    With weights w that sum to 1, mean m and G clusters: √(G/(G−1) · Σ_clusters (Σ_members w·(score − m))²). Clusters of
    one give s/√N. Clusters of equal total weight give the clusters' means' s/√G. nan for fewer than two clusters.
    """
    values = np.asarray(scores, dtype=np.float64)
    shares = np.full(values.size, 1 / max(1, values.size)) if weights is None else np.asarray(weights, dtype=np.float64)
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    if names.size < 2:
        return math.nan
    off = shares * (values - np.dot(shares, values))
    sums = np.bincount(members, weights=off)
    return float(np.sqrt(names.size / (names.size - 1) * np.sum(sums**2)))
