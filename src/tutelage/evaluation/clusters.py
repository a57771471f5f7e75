"""Metrics over examples that were drawn in clusters or within strata: scores, weights, one value per cluster.

A metric is a weighted mean of scores. Scores that were drawn together form a *cluster*: all parts of one example
(IFEval's instructions, InFoBench's questions), or a single example's score. Clusters are drawn from *strata*: the tasks
of BBH and the categories of MMLU-Pro are fixed, since another draw of the benchmark's examples would have the same
ones. Other benchmarks are one stratum. With the weight W_c and weighted sum T_c of the scores of cluster c, the mean
m_s = ΣT / ΣW of its stratum s of n_s clusters, and m = ΣT / ΣW over all C clusters, `cluster_values` gives

    v_c = m + √(C·(C−1) · n_s/(n_s−1)) · (T_c − m_s·W_c) / ΣW

per cluster. The values' plain mean is m. Their plain standard error s/√C is the metric's own: for a mean of T tasks
with equal weights it is √(Σ s_t²/n_t) / T, with the standard deviation s_t of task t's scores; for a single stratum it
is that of clusters, and v_c = m + (T_c − m·W_c) / mean(W). So whatever works on independent values (the paired
bootstrap, the crossed standard error) works on clusters and strata. In a single stratum, a cluster of a single score of
weight 1 has that score as its value, clusters of equal weight have their means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.statistics import Scores, standard_error


@dataclass(frozen=True)
class Metric:
    """How a metric is averaged."""

    source: str = ""  # the name of the examples' score that it is made of; "": the metric's own name
    fixed_groups: bool = False  # the groups are the benchmark's own tasks: strata, from which examples were drawn
    equal_groups: bool = False  # the mean of the groups' means, instead of the mean of all examples
    of_groups: tuple[str, ...] = ()  # only the examples of these groups; empty: all


@dataclass(frozen=True)
class Unit:
    """One score that a metric averages: an example's own, or that of one of its parts."""

    cluster: str
    stratum: str
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
        stratum = record.group if metric.fixed_groups else ""
        parts = [part["scores"][source] for part in record.parts if source in part["scores"]]
        for score in parts or [record.scores.get(source)]:
            units.append(Unit(str(place), stratum, record.group, score, record.tokens))
    return units


def unit_weights(groups: Sequence[str], equal_groups: bool) -> Scores:
    """Weights [U] of scored units by their groups: 1, or 1 / size of the group where groups count equally."""
    if not equal_groups:
        return np.ones(len(groups))
    _, members, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1 / sizes[members], dtype=np.float64)


def cluster_values(
    scores: ArrayLike, weights: ArrayLike, clusters: Sequence[str], strata: Sequence[str] | None = None
) -> tuple[float, Scores]:
    """The weighted mean m of scores [U], and the clusters' values v_c [C] in the order of their first score.

    `weights` [U], `clusters` [U] and `strata` [U] (None: one) are of the same units. The equation is at the top of this
    file. The variance within a stratum of one cluster is unknown: such strata are put together to one, which errs on
    the wide side, and if that has one cluster, too, it joins the smallest other stratum.
    """
    scores_U, weights_U = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    members_U = np.array([numbers[name] for name in clusters])
    totals_C = np.bincount(members_U, weights=weights_U)
    sums_C = np.bincount(members_U, weights=weights_U * scores_U)
    total = float(totals_C.sum())
    mean = float(sums_C.sum() / total)
    count = len(totals_C)
    if count < 2:
        return mean, np.full(count, mean)
    strata_C = _joined_strata(
        [""] * count if strata is None else list(dict(zip(clusters, strata, strict=True)).values())
    )
    sizes_C = np.bincount(strata_C)[strata_C]
    means_C = (np.bincount(strata_C, weights=sums_C) / np.bincount(strata_C, weights=totals_C))[strata_C]
    scale_C = np.sqrt(count * (count - 1) * sizes_C / (sizes_C - 1)) / total
    values_C = mean + scale_C * (sums_C - means_C * totals_C)
    # rounded, so that clusters without a difference count as such and not by their rounding errors
    return mean, np.asarray(np.round(values_C, 12), dtype=np.float64)


def _joined_strata(names: Sequence[str]) -> NDArray[np.int64]:
    """The numbers of the clusters' strata [C], where each has two clusters or more (C ≥ 2)."""
    _, strata_C = np.unique(np.asarray(names), return_inverse=True)
    sizes = np.bincount(strata_C)
    single_C = sizes[strata_C] == 1
    if single_C.sum() == 1:
        strata_C[single_C] = min((size, number) for number, size in enumerate(sizes) if size > 1)[1]
    elif single_C.any():
        strata_C[single_C] = strata_C[single_C][0]
    _, strata_C = np.unique(strata_C, return_inverse=True)
    return np.asarray(strata_C, dtype=np.int64)


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
    _, values = cluster_values(scores_U, weights_U, clusters, [unit.stratum for unit in scored])
    values_C[[numbers[cluster] for cluster in dict.fromkeys(clusters)]] = values
    return values_C


def clustered_standard_error(
    scores: ArrayLike,
    clusters: Sequence[str],
    weights: ArrayLike | None = None,
    strata: Sequence[str] | None = None,
) -> float:
    """Standard error of the weighted mean m of scores [U] when whole clusters [U] were drawn, not single scores.

    With weights w [U] (default: all equal) that sum to 1, and C clusters in one stratum: √(C/(C−1) · Σ_clusters
    (Σ_members w·(score − m))²). `strata` [U]: clusters were drawn within these; see the top of this file. nan for fewer
    than two clusters.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(set(clusters)) < 2:
        return math.nan
    return standard_error(
        cluster_values(values, np.ones(values.size) if weights is None else weights, clusters, strata)[1]
    )
