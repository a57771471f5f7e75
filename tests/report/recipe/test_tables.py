from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from fake_run import make_run, row_of, with_row

from tutelage.api.results import Score, _score
from tutelage.common.errors import TutelageError
from tutelage.evaluation.records import read_records, score_array, write_records
from tutelage.evaluation.run_benchmarks import score_words
from tutelage.evaluation.statistics import crossed_standard_error, paired_bootstrap
from tutelage.report.numbers import edge_note, number, score_text
from tutelage.report.recipe.tables import TableRow, build_tables
from tutelage.report.scores import MetricValue, read_seeds
from tutelage.runs.recipe_results import RecipeResults


def scores_of(results: RecipeResults, stage: str) -> np.ndarray:
    """[S, N] in 0..1, from the row's folders."""
    runs = read_seeds((run.seed, run.evaluations["test"]) for run in row_of(results, stage).runs)
    return np.stack([score_array(run.records, "rouge_l") for run in runs])


def table_row(results: RecipeResults, stage: str) -> TableRow:
    return next(row for row in build_tables(results)[1].rows if row.stage == stage)


@pytest.mark.slow
def test_scores_are_aligned_by_example_id(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=8)
    before = scores_of(results, "gkd")
    assert before.shape == (3, 8)
    folder = tmp_path / "gkd-1-test"
    write_records(folder, read_records(folder)[::-1])
    assert scores_of(results, "gkd") == pytest.approx(before)
    assert before[2, 5] == read_records(tmp_path / "gkd-2-test")[5].scores["rouge_l"]


def test_unscored_is_nan_and_missing_runs_are_left_out(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=4)
    folder = tmp_path / "gkd-0-test"
    first, *rest = read_records(folder)
    write_records(folder, [dataclasses.replace(first, scores={"rouge_l": None, "rouge_l_best": None}), *rest])
    first, second, third = row_of(results, "gkd").runs
    second = dataclasses.replace(second, evaluations={})
    third = dataclasses.replace(third, evaluations={"test": tmp_path / "not" / "there"})
    row = table_row(with_row(results, "gkd", runs=(first, second, third)), "gkd")
    assert row.values[0].scores.shape == (1, 4)
    assert np.isnan(row.values[0].scores[0]).tolist() == [True, False, False, False]
    assert (row.values[0].unscored, row.missing, row.seeds_text) == (1, (1, 2), "1 of 3")
    row = table_row(with_row(results, "gkd", runs=(second, third)), "gkd")
    assert (row.runs, row.values, row.missing, row.seeds_text) == ((), (), (1, 2), "none")
    (folder / "result.json").unlink()  # an evaluation that was stopped before its end
    assert table_row(results, "gkd").missing == (0,)


def test_folders_of_different_examples_are_an_error_in_one_line(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=4)
    folder = tmp_path / "gkd-1-test"
    write_records(folder, read_records(folder)[:-1])
    message = r"gkd-1-test and .*gkd-0-test were not made from the same examples \(`dialogue_0` is in .*gkd-0-test"
    with pytest.raises(TutelageError, match=message) as caught:
        scores_of(results, "gkd")
    assert "\n" not in str(caught.value)
    with pytest.raises(TutelageError, match="same examples"):  # across rows, too
        build_tables(results)
    write_records(folder, [*read_records(folder), read_records(folder)[0]])
    with pytest.raises(TutelageError, match="example id twice"):
        scores_of(results, "gkd")


def test_table_numbers_are_those_of_the_statistics(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=12)
    (dev, test) = build_tables(results)
    assert (dev.task, test.task) == ("dev", "test")
    scores = {row.stage: 100 * scores_of(results, row.stage) for row in results.rows}
    rows = {row.stage: row for row in test.rows}
    value = rows["gkd"].values[0]
    assert value.value == pytest.approx(scores["gkd"].mean())
    assert value.stderr == pytest.approx(crossed_standard_error(scores["gkd"]))
    assert value.by_seed == pytest.approx(scores["gkd"].mean(1))
    assert value.versus == paired_bootstrap(scores["gkd"], scores["sft"], paired_seeds=True)
    assert rows["teacher"].values[0].versus == paired_bootstrap(scores["teacher"], scores["sft"])
    assert rows["sft"].values[0].versus is None
    assert [row.seeds_text for row in test.rows] == ["shared", "shared", "3", "3", "3", "3"]
    cut = np.mean([not r.finished for seed in range(3) for r in read_records(tmp_path / f"gkd-{seed}-test")])
    assert rows["gkd"].cut_share == pytest.approx(cut)


def test_an_unknown_reference_is_an_error(tmp_path: Path) -> None:
    results = dataclasses.replace(make_run(tmp_path, count=3), reference="stf")
    with pytest.raises(TutelageError, match="`stf` is not a row of the report; choose from: lead_1, teacher, sft"):
        build_tables(results)


def test_settings_are_written_as_people_do() -> None:
    assert [number(v) for v in (1e-4, 5e-6, 3.5e-05, 0.03, 6.0, 0.5, 128, "linear", 0.0, 14300.0)] == [
        "1e-4", "5e-6", "3.5e-5", "0.03", "6", "0.5", "128", "linear", "0", "14300"]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "value", "stderr", "written"),
    [
        ("exact_match", 43.44, 0.51, "43.4 ± 0.5"),
        ("exact_match", 43.44, math.nan, "43.4"),
        ("exact_match", 100.0, 0.0, "100.0 (≥ 95.1)"),  # 0.05^(1/60) = 0.9513
        ("rouge_l", 0.0, 0.0, "0.0 (≤ 4.9)"),
        ("loss", 0.0, 0.0, "0.000 ± 0.000"),
    ],
)
def test_an_error_of_0_is_a_bound(metric: str, value: float, stderr: float, written: str) -> None:
    shown = score_text(MetricValue(metric=metric, value=value, stderr=stderr, seeds=(0,), examples=60))
    assert shown == written
    assert bool(edge_note(["x", shown])) == ("(" in written)


def test_commands_and_python_write_bounds_too() -> None:
    assert score_words("exact_match", {"value": 100.0, "stderr": 0.0}, 60) == "100.00 (≥ 95.13)"
    assert score_words("exact_match", {"value": 100.0, "stderr": None}, 1) == "100.00 ± unknown"
    assert _score(Score("gkd", "test", "exact_match", 0.0, 0.0, 60)) == "0.00 (≤ 4.87)"
    assert _score(Score("gkd", "test", "exact_match", 50.0, 6.5, 60)) == "50.00 ± 6.50"
