from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from fake_study import GENERAL, SIZES, STUDENTS, evaluate, make_study, plan

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.summary import average
from tutelage.evaluation.clusters import Metric, cluster_scores
from tutelage.evaluation.records import ExampleRecord, read_result, write_records, write_result
from tutelage.evaluation.statistics import Paired, standard_error
from tutelage.report.labels import AVERAGE
from tutelage.report.numbers import score_text
from tutelage.report.study.read import build_study
from tutelage.report.study.results import Arm
from tutelage.study.plan import Cell


def record(n: int, score: float | None, group: str = "", parts: tuple[float, ...] = ()) -> ExampleRecord:
    listed = tuple({"name": str(i), "scores": {"m": part}} for i, part in enumerate(parts))
    return ExampleRecord(str(n), "", "", (), {"m": score}, None, "", True, 1, group, listed)


@pytest.mark.parametrize(
    "metric", [Metric(), Metric(fixed_groups=True), Metric(fixed_groups=True, equal_groups=True)], ids=str
)
def test_clusters_give_the_benchmarks_own_mean_and_error(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    records = [record(n, float(rng.random()), f"g{n % 5 % 3}") for n in range(31)]
    expected, values = average(records, "m", metric), cluster_scores(records, "m", metric)
    assert 100 * values.mean() == pytest.approx(expected["value"])
    assert 100 * standard_error(values) == pytest.approx(expected["stderr"])


def test_parts_count_as_one_draw_and_unscored_is_not_wrong() -> None:
    records = [record(0, 1.0, parts=(1, 1, 1)), record(1, 0.0, parts=(0,)), record(2, None)]
    values = cluster_scores(records, "m", Metric())
    assert np.nanmean(values) == pytest.approx(0.75)  # three of four parts
    assert np.isnan(values).tolist() == [False, False, True]


@pytest.mark.slow
def test_values_are_the_evaluations_own_and_the_average_is_their_mean(tmp_path: Path) -> None:
    cells = make_study(tmp_path, skip=lambda c: c.student != STUDENTS[0] or c.task not in GENERAL)
    study = build_study(cells)
    arm = next(a for a in study.arms if (a.student, a.size, a.method) == (STUDENTS[0], SIZES[0], "gkd_sft"))
    values = []
    for task in GENERAL:
        result = study.results[arm, task]
        said = [read_result(cell.folder)["metrics"][result.metric]["value"] for cell in result.cells]
        assert result.value == pytest.approx(np.mean(said))
        values.append(result.value)
    mean = study.results[arm, AVERAGE]
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.scores.mean() == pytest.approx(mean.value)
    assert mean.by_seed[1] == pytest.approx(np.mean([one.by_seed[1] for one in mean.of]))
    versus = study.versus(mean)
    reference = study.reference(mean)
    assert versus is not None
    assert reference is not None
    assert versus.difference == pytest.approx(mean.value - reference.value)


def test_the_averages_error_is_that_of_independent_tasks(tmp_path: Path) -> None:
    cells = [c for c in plan(tmp_path, seeds=(0,), general=("gpqa", "ifeval")) if c.task in ("gpqa", "ifeval")]
    cells = [c for c in cells if c.size == SIZES[0] and c.method == "sft"]
    for count, cell in zip((50, 120, 50, 120), cells, strict=True):
        evaluate(cell, count)
    study = build_study(cells)
    for arm in study.arms:
        parts = [study.results[arm, task].stderr for task in ("gpqa", "ifeval")]
        expected = math.sqrt(parts[0] ** 2 + parts[1] ** 2) / 2
        assert study.results[arm, AVERAGE].stderr == pytest.approx(expected, rel=0.02)  # 1/(n-1) of few for many


@pytest.mark.slow
def test_missing_is_not_absent_and_an_average_needs_all(tmp_path: Path) -> None:
    def skip(cell: Cell) -> bool:
        gone = cell.size == SIZES[0] and cell.method == "gkd_sft" and cell.task == "bbh"
        return gone or (cell.method == "sft" and cell.seed == 1 and cell.task == "gpqa")

    study = build_study(make_study(tmp_path, 20, skip))
    gone = study.find(STUDENTS[0], "gkd_sft", SIZES[0], "bbh")
    assert gone is not None
    assert (gone.is_missing, gone.missing, math.isnan(gone.value)) == (True, (0, 1, 2), True)
    mean = study.find(STUDENTS[0], "gkd_sft", SIZES[0], AVERAGE)
    assert mean is not None
    assert mean.is_missing
    sft = study.find(STUDENTS[0], "sft", SIZES[0], AVERAGE)
    assert sft is not None
    assert (sft.seeds, sft.seeds_text) == ((0, 2), "2 of 3")
    assert study.find(STUDENTS[0], "seqkd", SIZES[0], AVERAGE) is None


def test_kinds_of_tasks(tmp_path: Path) -> None:
    study = build_study(plan(tmp_path))
    assert study.general == GENERAL
    assert study.domain == ("flores", "dialogsum", "arc_challenge")
    # ARC over the size axis is one of the general tasks
    arc = [Cell(size, "s", "sft", None, 0, "arc_challenge", tmp_path / str(size)) for size in (10, 20)]
    assert build_study(arc).general == ("arc_challenge",)
    assert build_study([*arc, Cell(10, "s", "sft", None, 0, "held_out_loss", tmp_path)]).held_out == ("held_out_loss",)


@pytest.mark.parametrize("task", ["checklist", "glossary", "weekly", "hair_loss"])
def test_a_tasks_name_makes_no_loss_of_its_scores(task: str, tmp_path: Path) -> None:
    cells = [Cell(10, STUDENTS[0], method, None, 0, task, tmp_path / method) for method in ("sft", "gkd_sft")]
    for cell in cells:
        evaluate(cell)
    study = build_study(cells)
    assert (study.general, study.held_out, study.headline(STUDENTS[0])) == ((task,), (), task)


def test_losses_are_nats_per_token_and_in_no_average(tmp_path: Path) -> None:
    cells = [Cell(size, "s", m, None, 0, "held_out", tmp_path / f"{m}{size}") for size in (10, 20)
             for m in ("sft", "gkd_sft")]  # fmt: skip
    for cell in cells:
        better = 0.1 * (cell.method == "gkd_sft")
        records = [
            dataclasses.replace(record(n, None), scores={"loss": 2 + 0.1 * n - better, "kl": 0.5}, tokens=1 + n)
            for n in range(9)
        ]
        write_records(cell.folder, records)
        mean = sum(r.tokens * (r.scores["loss"] or 0) for r in records) / sum(r.tokens for r in records)
        metrics = {"loss": {"value": mean, "stderr": 0.1}, "kl": {"value": 0.5, "stderr": 0.0}}
        write_result(cell.folder, {"task": "held_out", "headline": "loss", "metrics": metrics})
    study = build_study(cells)
    assert (study.general, study.held_out) == ((), ("held_out: loss", "held_out: kl"))
    result = study.find("s", "gkd_sft", 10, "held_out: loss")
    assert result is not None
    assert result.scores.mean() == pytest.approx(result.value) == pytest.approx(2 + 8 / 15 - 0.1, abs=0.02)
    versus = study.versus(result)
    assert versus is not None
    assert versus.difference == pytest.approx(-0.1)
    assert score_text(study.find("s", "sft", 20, "held_out: kl")) == "0.500 ± 0.000"


def test_synthetic_arms_are_compared_with_sft_on_gold(tmp_path: Path) -> None:
    study = build_study(plan(tmp_path))
    mix = study.find(STUDENTS[0], "mix", 100_000, "flores")
    assert mix is not None
    reference = study.reference(mix)
    assert reference is not None
    assert reference.arm == Arm(None, STUDENTS[0], "sft", None)


def test_bad_studies_are_refused_in_one_line(tmp_path: Path) -> None:
    cells = plan(tmp_path, seeds=(0,))[:6]
    with pytest.raises(TutelageError, match=r"has a cell twice: sft of .*Llama-3.2-1B at 10000 on bbh, seed 0"):
        build_study([*cells, dataclasses.replace(cells[0], folder=tmp_path / "other")])
    evaluate(cells[0], 20)
    evaluate(cells[5], 30)
    with pytest.raises(TutelageError, match="were not made from the same examples"):
        build_study(cells)


def test_holm_keeps_what_survives_all_comparisons(tmp_path: Path) -> None:
    study = build_study(plan(tmp_path))
    made = {"a": 0.001, "b": 0.02, "c": 0.026, "d": 0.9}
    for name, p in made.items():
        study.compared[name, "sft"] = Paired(1, 0, 2, p, 0.5, 10, 0)
    assert study.after_holm() == {("a", "sft")}  # 0.02 · 3 is above 0.05, and nothing after it counts
