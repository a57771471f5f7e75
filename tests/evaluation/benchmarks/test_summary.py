"""Means and standard errors against hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.summary import average, summarise
from tutelage.evaluation.clusters import Metric, clustered_standard_error, units_of
from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.run_benchmarks import lines
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


def fixed_tasks(metric: Metric) -> tuple[list[np.ndarray], dict[str, float | None]]:
    rng = np.random.default_rng(3)
    tasks = [
        (rng.random(size) < chance).astype(float) for size, chance in ((250, 0.9), (187, 0.5), (146, 0.2), (40, 0.7))
    ]
    records = [record(f"{t}/{n}", float(x), f"t{t}") for t, xs in enumerate(tasks) for n, x in enumerate(xs)]
    order = rng.permutation(len(records))
    return tasks, average([records[place] for place in order], "accuracy", metric)


@pytest.mark.parametrize("equal_groups", [True, False])
def test_fixed_tasks_have_the_error_over_examples_within_them(equal_groups: bool) -> None:
    """Against numpy, and against a bootstrap of examples within tasks and one of whole tasks."""
    tasks, value = fixed_tasks(Metric(fixed_groups=True, equal_groups=equal_groups))
    total = sum(len(xs) for xs in tasks)
    shares = [1 / len(tasks) if equal_groups else len(xs) / total for xs in tasks]
    means = np.array([xs.mean() for xs in tasks])
    assert value["value"] == pytest.approx(100 * np.dot(shares, means))
    within = math.sqrt(sum(w**2 * xs.var(ddof=1) / len(xs) for w, xs in zip(shares, tasks, strict=True)))
    assert value["stderr"] == pytest.approx(100 * within)
    rng = np.random.default_rng(0)
    drawn = sum(w * rng.choice(xs, (4000, len(xs))).mean(1) for w, xs in zip(shares, tasks, strict=True))
    assert value["stderr"] == pytest.approx(100 * drawn.std(), rel=0.05)
    if equal_groups:
        assert value["stderr"] == pytest.approx(
            100 * math.sqrt(sum(xs.var(ddof=1) / len(xs) for xs in tasks)) / len(tasks)
        )
        assert value["stderr_tasks"] == pytest.approx(100 * means.std(ddof=1) / math.sqrt(len(tasks)))
        chosen = rng.integers(len(tasks), size=(20_000, len(tasks)))
        spread = means[chosen].mean(1).std() * math.sqrt(len(tasks) / (len(tasks) - 1))
        assert value["stderr_tasks"] == pytest.approx(100 * spread, rel=0.03)
    assert value["stderr_tasks"] > 4 * value["stderr"]


def test_the_error_over_tasks_by_hand() -> None:
    records = [record("1", 1.0, "a"), record("2", 1.0, "a"), record("3", 0.0, "b"), record("4", 0.0, "b")]
    value = average(records, "accuracy", Metric(fixed_groups=True))
    # the deviations sum to +1 in a and −1 in b; within the tasks there is none
    assert value == {"value": 50.0, "stderr": 0.0, "stderr_tasks": pytest.approx(100 * math.sqrt(2 * 2) / 4)}


def test_tasks_of_one_example_are_put_together() -> None:
    alone = [record(str(n), float(n % 2), f"g{n}") for n in range(6)]
    value = average(alone, "accuracy", Metric(fixed_groups=True, equal_groups=True))
    assert value["stderr"] == pytest.approx(100 * standard_error([0, 1, 0, 1, 0, 1]))
    # one alone joins the smallest other task
    values = {"a": [1.0, 0.0, 1.0, 1.0], "b": [1.0, 0.0], "c": [0.0]}
    records = [record(f"{g}{n}", x, g) for g, xs in values.items() for n, x in enumerate(xs)]
    variance = 16 / 49 * np.var(values["a"], ddof=1) / 4 + 9 / 49 * np.var([1, 0, 0], ddof=1) / 3
    found = average(records, "accuracy", Metric(fixed_groups=True))
    assert found["stderr"] == pytest.approx(100 * math.sqrt(variance))
    assert average(records[:1], "accuracy", Metric(fixed_groups=True))["stderr"] is None


def test_only_bbh_and_mmlu_pro_have_fixed_tasks() -> None:
    fixed = {name for name, bench in BENCHMARKS.items() if any(m.fixed_groups for m in bench.metrics.values())}
    assert fixed == {"bbh", "mmlu_pro"}
    for name in fixed:
        assert all(metric.fixed_groups for metric in BENCHMARKS[name].metrics.values())


def test_the_printed_line_names_both_errors() -> None:
    metrics = {"accuracy": {"value": 66.0, "stderr": 0.5, "stderr_tasks": 3.6}, "other": {"value": 1.0, "stderr": 0.1}}
    printed = lines([{"task": "bbh", "n": 6511, "metrics": metrics}])
    assert printed == ["bbh accuracy: 66.00 ± 0.50 (n = 6511; ± 3.60 over tasks)", "bbh other: 1.00 ± 0.10 (n = 6511)"]


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
        {"accuracy": Metric(fixed_groups=True), "accuracy_weighted": Metric(source="accuracy")},
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
