"""The numbers of a benchmark's result: means and their standard errors, for the whole and per group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutelage.evaluation.clusters import Metric, clustered_standard_error, unit_weights, units_of
from tutelage.evaluation.readers.thoughts import read_reply
from tutelage.evaluation.records import ExampleRecord

Value = dict[str, float | None]


def summarise(
    task: str, records: Sequence[ExampleRecord], metrics: Mapping[str, Metric], headline: str
) -> dict[str, Any]:
    """A benchmark's result: {"task", "n", "unscored", "unended_thoughts", "headline", "metrics", "groups"}.

    Values and standard errors are 0..100, None where undefined. An entry of `groups` has `n`, `unscored`, the
    headline's `value` and `stderr`, and all metrics that are plain means over examples.
    """
    known = {name for record in records for name in record.scores}  # ARC has likelihoods only if a model was loaded
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
        "unended_thoughts": sum(read_reply(record.response).unended for record in records),
        "headline": headline,
        "metrics": {name: average(records, name, metric) for name, metric in metrics.items()},
        "groups": {name: entry for name, entry in groups.items() if name},
    }


def group_entry(members: Sequence[ExampleRecord], metrics: Sequence[str], headline: str) -> dict[str, Any]:
    """One entry of a result's `groups`: the metrics (plain means) over the group's records."""
    values = {name: average(members, name, Metric()) for name in metrics}
    unscored = sum(record.scores.get(headline) is None for record in members)
    return {"n": len(members), "unscored": unscored, **values[headline], "metrics": values}


def average(records: Sequence[ExampleRecord], name: str, metric: Metric) -> Value:
    """Weighted mean of a metric over its scored units and its standard error, 0..100.

    The error is over examples, within the tasks where a benchmark has its own; `stderr_tasks` then has the error as if
    the tasks, too, were drawn at random.
    """
    scored = [unit for unit in units_of(records, name, metric) if unit.score is not None]
    if not scored:
        missing: Value = {"value": None, "stderr": None}
        return missing | {"stderr_tasks": None} if metric.fixed_groups else missing
    scores_U = np.array([unit.score for unit in scored], dtype=np.float64)
    weights_U = unit_weights([unit.group for unit in scored], metric.equal_groups)
    weights_U /= weights_U.sum()
    value = float(np.dot(weights_U, scores_U))
    strata = [unit.stratum for unit in scored]
    errors = {"stderr": clustered_standard_error(scores_U, [unit.cluster for unit in scored], weights_U, strata)}
    if metric.fixed_groups:
        errors["stderr_tasks"] = clustered_standard_error(scores_U, strata, weights_U)
    return {"value": 100 * value, **{name: None if math.isnan(e) else 100 * e for name, e in errors.items()}}
