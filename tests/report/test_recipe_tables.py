from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fake_run import make_run

from tutelage.common.errors import TutelageError
from tutelage.evaluation.records import read_records, write_records
from tutelage.evaluation.statistics import crossed_standard_error, paired_bootstrap
from tutelage.report.numbers import number
from tutelage.report.recipe.tables import build_tables
from tutelage.report.scores import load_scores


def row_of(manifest: dict, stage: str) -> dict:
    return next(row for row in manifest["rows"] if row["stage"] == stage)


def test_scores_are_aligned_by_example_id(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=8)
    before = load_scores(manifest, row_of(manifest, "gkd"), "test", "rouge_l")
    assert before.shape == (3, 8)
    folder = tmp_path / "gkd-1-test"
    write_records(folder, read_records(folder)[::-1])
    assert load_scores(manifest, row_of(manifest, "gkd"), "test", "rouge_l") == pytest.approx(before)
    assert before[2, 5] == read_records(tmp_path / "gkd-2-test")[5].scores["rouge_l"]


def test_unscored_is_nan_and_missing_runs_are_left_out(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=4)
    folder = tmp_path / "gkd-0-test"
    first, *rest = read_records(folder)
    write_records(folder, [dataclasses.replace(first, scores={"rouge_l": None, "rouge_l_best": None}), *rest])
    row = row_of(manifest, "gkd")
    row["runs"][1]["evaluations"] = {}
    row["runs"][2]["evaluations"]["test"] = "not/there"
    scores = load_scores(manifest, row, "test", "rouge_l")
    assert scores.shape == (1, 4)
    assert np.isnan(scores[0]).tolist() == [True, False, False, False]
    row["runs"] = row["runs"][1:]
    assert load_scores(manifest, row, "test", "rouge_l").shape == (0, 0)


def test_folders_of_different_examples_are_an_error_in_one_line(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=4)
    folder = tmp_path / "gkd-1-test"
    write_records(folder, read_records(folder)[:-1])
    message = r"gkd-1-test and .*gkd-0-test were not made from the same examples \(`dialogue_0` is in .*gkd-0-test"
    with pytest.raises(TutelageError, match=message) as caught:
        load_scores(manifest, row_of(manifest, "gkd"), "test", "rouge_l")
    assert "\n" not in str(caught.value)
    with pytest.raises(TutelageError, match="same examples"):  # across rows, too
        build_tables(manifest)
    write_records(folder, [*read_records(folder), read_records(folder)[0]])
    with pytest.raises(TutelageError, match="example id twice"):
        load_scores(manifest, row_of(manifest, "gkd"), "test", "rouge_l")


def test_table_numbers_are_those_of_the_statistics(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=12)
    (dev, test) = build_tables(manifest)
    assert (dev.task, test.task) == ("dev", "test")
    scores = {r["stage"]: 100 * load_scores(manifest, r, "test", "rouge_l") for r in manifest["rows"]}
    rows = {row.stage: row for row in test.rows}
    value = rows["gkd"].values[0]
    assert value.mean.mean == pytest.approx(scores["gkd"].mean())
    assert value.mean.stderr == pytest.approx(crossed_standard_error(scores["gkd"]))
    assert value.by_seed == pytest.approx(scores["gkd"].mean(1))
    assert value.versus == paired_bootstrap(scores["gkd"], scores["sft"], paired_seeds=True)
    assert rows["teacher"].values[0].versus == paired_bootstrap(scores["teacher"], scores["sft"])
    assert rows["sft"].values[0].versus is None
    assert [row.seeds_text for row in test.rows] == ["shared", "shared", "3", "3", "3", "3"]
    cut = np.mean([not r.finished for seed in range(3) for r in read_records(tmp_path / f"gkd-{seed}-test")])
    assert rows["gkd"].cut_share == pytest.approx(cut)


def test_an_unknown_reference_is_an_error(tmp_path: Path) -> None:
    manifest = make_run(tmp_path, count=3) | {"reference": "stf"}
    with pytest.raises(TutelageError, match="`stf` is no row of the report; choose from: lead_1, teacher, sft"):
        build_tables(manifest)


def test_settings_are_written_as_people_do() -> None:
    assert [number(v) for v in (1e-4, 5e-6, 3.5e-05, 0.03, 6.0, 0.5, 128, "linear", 0.0, 14300.0)] == [
        "1e-4", "5e-6", "3.5e-5", "0.03", "6", "0.5", "128", "linear", "0", "14300"]  # fmt: skip
