"""Means and standard errors against hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tutelage.evaluation.benchmarks.summary import average, summarise
from tutelage.evaluation.clusters import Metric, clustered_standard_error, units_of
from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.statistics import standard_error


def record(id: str, score: float | None, group: str = "", parts: tuple = (), metric: str = "accuracy") -> ExampleRecord:
    return ExampleRecord(id, "p", "r", (), {metric: score}, None, "", True, 1, group, parts)


def test_clusters_of_one_give_the_plain_standard_error() -> None:
    scores = [1.0, 0.0, 0.0, 1.0, 1.0]
    assert clustered_standard_error(scores, list("abcde")) == pytest.approx(standard_error(scores), abs=1e-15)
    assert clustered_standard_error(scores, list("abcde")) == pytest.approx(math.sqrt(0.3 / 5))


def test_clusters_by_hand() -> None:
    # mean 0.5; deviations sum to +1 in cluster a and −1 in cluster b: √(2/1 · (1² + 1²)) / 4
    scores, clusters = [1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]
    assert clustered_standard_error(scores, clusters) == pytest.approx(math.sqrt(2 * 2) / 4)
    assert math.isnan(clustered_standard_error(scores, ["a"] * 4))


def test_equal_groups_are_averaged_and_their_spread_is_the_error() -> None:
    records = [record("1", 1.0, "a"), record("2", 0.0, "a"), record("3", 1.0, "b"), record("4", 0.0, "c")]
    value = average(records, "accuracy", Metric(cluster="group", equal_groups=True))
    means = [0.5, 1.0, 0.0]
    assert value["value"] == pytest.approx(50.0)
    assert value["stderr"] == pytest.approx(100 * np.std(means, ddof=1) / math.sqrt(3))


def test_group_clusters_of_unequal_size_by_hand() -> None:
    records = [record("1", 1.0, "a"), record("2", 1.0, "a"), record("3", 0.0, "b")]
    value = average(records, "accuracy", Metric(cluster="group"))
    assert value["value"] == pytest.approx(200 / 3)
    sums = [2 * (1 - 2 / 3), -2 / 3]  # deviations summed in each cluster
    assert value["stderr"] == pytest.approx(100 * math.sqrt(2 * (sums[0] ** 2 + sums[1] ** 2)) / 3)


def test_parts_are_units_and_examples_are_clusters() -> None:
    def parts(*scores: float | None) -> tuple:
        return tuple({"name": "q", "scores": {"drfr": score}} for score in scores)

    records = [
        record("1", 1.0, parts=parts(1.0, 1.0), metric="drfr"),
        record("2", 0.5, parts=parts(1.0, 0.0, None), metric="drfr"),
    ]
    value = average(records, "drfr", Metric())
    assert value["value"] == pytest.approx(75.0)  # 3 of the 4 scored parts
    sums = [2 * 0.25, 0.25 - 0.75]
    assert value["stderr"] == pytest.approx(100 * math.sqrt(2 * (sums[0] ** 2 + sums[1] ** 2)) / 4)
    units = units_of(records, "drfr", Metric())
    assert [(unit.cluster, unit.score) for unit in units] == [("0", 1), ("0", 1), ("1", 1), ("1", 0), ("1", None)]


def test_unscored_is_counted_and_left_out() -> None:
    result = summarise("t", [record("1", 1.0), record("2", None), record("3", 0.0)], {"accuracy": Metric()}, "accuracy")
    assert (result["n"], result["unscored"]) == (3, 1)
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(50.0)
    assert result["metrics"]["accuracy"]["stderr"] == pytest.approx(50.0)
    empty = summarise("t", [record("1", None)], {"accuracy": Metric()}, "accuracy")
    assert empty["metrics"]["accuracy"] == {"value": None, "stderr": None}


def test_groups_have_the_headline_and_all_metrics() -> None:
    result = summarise(
        "t",
        [record("1", 1.0, "a"), record("2", 0.0, "a"), record("3", 1.0, "b")],
        {"accuracy": Metric(cluster="group"), "accuracy_weighted": Metric(source="accuracy")},
        "accuracy",
    )
    assert result["groups"]["a"]["value"] == pytest.approx(50.0)
    assert result["groups"]["a"]["stderr"] == pytest.approx(50.0)
    assert result["groups"]["b"] == {
        "n": 1,
        "unscored": 0,
        "value": 100.0,
        "stderr": None,
        "metrics": {"accuracy": {"value": 100.0, "stderr": None}},
    }
