"""Metrics over examples that were drawn in clusters: the scores behind them, their weights, one value per cluster.

A metric is a weighted mean of scores. Scores that were drawn together form a cluster: all of a BBH task or an MMLU-Pro
category, all parts of one example (IFEval's instructions, InFoBench's questions), or a single example's score. With
total weight W_c and weighted sum T_c of the scores of cluster c, the metric is m = ΣT / ΣW, and `cluster_values` gives

    v_c = m + (T_c − m·W_c) / mean(W)

per cluster. The values' plain mean is m, and their plain standard error s/√C is the metric's own
(`clustered_standard_error`). So whatever works on independent values (the paired bootstrap, the crossed standard error)
works on clusters. A cluster of a single score of weight 1 has that score as its value, clusters of equal weight have
their means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.statistics import Scores


@dataclass(frozen=True)
class Metric:
    """How a metric is averaged."""

    source: str = ""  # the name of the examples' score that it is made of; "": the metric's own name
    cluster: Literal["example", "group"] = "example"  # what was drawn as one: the unit of the standard error
    equal_groups: bool = False  # the mean of the groups' means, instead of the mean of all examples
    of_groups: tuple[str, ...] = ()  # only the examples of these groups; empty: all


@dataclass(frozen=True)
class Unit:
    """One score that a metric averages: an example's own, or that of one of its parts."""

    cluster: str
    group: str
    score: float | None  # None: unscored
    tokens: int  # sampled tokens of the example


def units_of(records: Sequence[ExampleRecord], name: str, metric: Metric) -> list[Unit]:
    """The scores behind the metric `name`, unscored ones included, in the order of the records and their parts."""
    source = metric.source or name
    units = []
    for place, record in enumerate(records):
        if metric.of_groups and record.group not in metric.of_groups:
            continue
        cluster = record.group if metric.cluster == "group" else str(place)
        parts = [part["scores"][source] for part in record.parts if source in part["scores"]]
        for score in parts or [record.scores.get(source)]:
            units.append(Unit(cluster, record.group, score, record.tokens))
    return units


def unit_weights(groups: Sequence[str], equal_groups: bool) -> Scores:
    """Weights [U] of scored units by their groups: 1, or 1 / size of the group where groups count equally."""
    if not equal_groups:
        return np.ones(len(groups))
    _, members, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1 / sizes[members], dtype=np.float64)


def cluster_values(scores: ArrayLike, weights: ArrayLike, clusters: Sequence[str]) -> tuple[float, Scores]:
    """The weighted mean m of scores [U], and the clusters' values v_c [C] in the order of their first score.

    `weights` [U] and `clusters` [U] are of the same units. The equation is at the top of this file.
    """
    scores_U, weights_U = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    members_U = np.array([numbers[name] for name in clusters])
    totals_C = np.bincount(members_U, weights=weights_U)
    sums_C = np.bincount(members_U, weights=weights_U * scores_U)
    mean = float(sums_C.sum() / totals_C.sum())
    values_C = mean + (sums_C - mean * totals_C) / totals_C.mean()
    # rounded, so that clusters without a difference count as such and not by their rounding errors
    return mean, np.asarray(np.round(values_C, 12), dtype=np.float64)


def cluster_scores(records: Sequence[ExampleRecord], name: str, metric: Metric) -> Scores:
    """One run's values per cluster, [C] in the scores' unit; nan for a cluster without a scored unit.

    Losses are means over tokens, so there a unit also counts by its tokens.
    """
    units = units_of(records, name, metric)
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(unit.cluster for unit in units))}
    values_C = np.full(len(numbers), np.nan)
    by_tokens = lower_is_better(name)
    scored = [unit for unit in units if unit.score is not None and (unit.tokens or not by_tokens)]
    if not scored:
        return values_C
    weights_U = unit_weights([unit.group for unit in scored], metric.equal_groups)
    if by_tokens:
        weights_U = weights_U * [unit.tokens for unit in scored]
    clusters = [unit.cluster for unit in scored]
    scores_U = np.array([unit.score for unit in scored], dtype=np.float64)
    _, values = cluster_values(scores_U, weights_U, clusters)
    values_C[[numbers[cluster] for cluster in dict.fromkeys(clusters)]] = values
    return values_C


def clustered_standard_error(scores: ArrayLike, clusters: Sequence[str], weights: ArrayLike | None = None) -> float:
    """Standard error of the weighted mean m of scores [U] when whole clusters [U] were drawn, not single scores.

    With weights w [U] that sum to 1 (default: all equal) and C clusters: √(C/(C−1) · Σ_clusters (Σ_members w·(score −
    m))²), which is s/√C of the clusters' values. nan for fewer than two clusters.
    """
    values = np.asarray(scores, dtype=np.float64)
    shares = np.full(values.size, 1 / max(1, values.size)) if weights is None else np.asarray(weights, dtype=np.float64)
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    if names.size < 2:
        return math.nan
    deviations = shares * (values - np.dot(shares, values))
    sums_C = np.bincount(members, weights=deviations)
    return float(np.sqrt(names.size / (names.size - 1) * np.sum(sums_C**2)))


def widening(clusters: int) -> float:
    """The factor on the spread of G resampled clusters that keeps 95 % intervals wide enough when G is small.

    √(G / (G − 1)) · t / z at 97.5 %, t with G − 1 degrees of freedom by its expansion in 1 / (G − 1): a bootstrap of G
    values varies too little by √((G − 1) / G), and their variance is itself uncertain, as in Student's t. 1 for G < 2.
    """
    if clusters < 2:
        return 1.0
    z, v = 1.959963984540054, clusters - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return math.sqrt(clusters / v) * t / z
