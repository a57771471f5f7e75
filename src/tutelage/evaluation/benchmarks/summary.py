"""The numbers of a benchmark: means with standard errors that know which examples belong together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutelage.evaluation.clusters import Metric, clustered_standard_error, scores_of
from tutelage.evaluation.records import ExampleRecord

Value = dict[str, float | None]


def summarise(
    task: str, records: Sequence[ExampleRecord], metrics: Mapping[str, Metric], headline: str
) -> dict[str, Any]:
    """The result of a benchmark: values and standard errors 0..100, None where undefined.

    A group has `n`, `unscored`, the headline's `value` and `stderr`, and all metrics that stand for single examples.
    """
    known = {name for record in records for name in record.scores}  # ARC has likelihoods only where a model is at hand
    metrics = {name: metric for name, metric in metrics.items() if not records or (metric.source or name) in known}
    plain = {name: metric for name, metric in metrics.items() if not metric.source and not metric.of_groups}
    groups: dict[str, Any] = {}
    for group in dict.fromkeys(record.group for record in records):
        members = [record for record in records if record.group == group]
        groups[group] = group_entry(members, list(plain), headline)
    return {
        "task": task,
        "n": len(records),
        "unscored": sum(record.scores.get(headline) is None for record in records),
        "headline": headline,
        "metrics": {name: average(records, name, metric) for name, metric in metrics.items()},
        "groups": {name: entry for name, entry in groups.items() if name},
    }


def group_entry(members: Sequence[ExampleRecord], metrics: Sequence[str], headline: str) -> dict[str, Any]:
    values = {name: average(members, name, Metric()) for name in metrics}
    unscored = sum(record.scores.get(headline) is None for record in members)
    return {"n": len(members), "unscored": unscored, **values[headline], "metrics": values}


def average(records: Sequence[ExampleRecord], name: str, metric: Metric) -> Value:
    """Mean and standard error of a metric over the scored examples (or their scored parts), 0..100."""
    source = metric.source or name
    scores, clusters, groups = [], [], []
    for place, record in enumerate(records):
        if metric.of_groups and record.group not in metric.of_groups:
            continue
        for score in scores_of(record, source):
            scores.append(score)
            clusters.append(record.group if metric.cluster == "group" else str(place))
            groups.append(record.group)
    if not scores:
        return {"value": None, "stderr": None}
    weights = np.ones(len(scores))
    if metric.equal_groups:
        sizes = Counter(groups)
        weights = np.array([1 / sizes[group] for group in groups])
    weights /= weights.sum()
    value = float(np.dot(weights, scores))
    error = clustered_standard_error(scores, clusters, weights)
    return {"value": 100 * value, "stderr": None if math.isnan(error) else 100 * error}
