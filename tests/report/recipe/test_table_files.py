from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from fake_run import make_run, row_of, with_row

from tutelage.evaluation.records import ExampleRecord
from tutelage.report.recipe.pairs import pairs_of
from tutelage.report.recipe.search_table import search_groups
from tutelage.report.recipe.table_files import pairs_csv, search_csv, tables_csv, tables_markdown
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import SearchResults
from tutelage.runs.search import SearchPoint


def unscore_off_policy(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
    unscored = [dataclasses.replace(record, scores=dict.fromkeys(record.scores)) for record in records]
    return unscored if stage == "off_policy" else records


@pytest.mark.slow
def test_csv_holds_the_tables_numbers_in_full(tmp_path: Path) -> None:
    results = with_row(make_run(tmp_path, count=6), "gkd_base", runs=())
    tables = build_tables(results)
    lines = list(csv.DictReader(io.StringIO(tables_csv(tables))))
    assert len(lines) == 2 * 6 * 2
    by_key = {(line["task"], line["stage"], line["metric"]): line for line in lines}
    line, value = by_key["test", "gkd", "rouge_l"], tables[1].rows[3].values[0]
    assert value.versus is not None
    assert float(line["mean"]) == value.value
    assert float(line["p_value"]) == value.versus.p_value
    assert (line["seeds"], line["examples"], line["unscored"], line["reference"]) == ("3", "6", "0", "sft")
    assert line["chosen"] == "learning rate 1e-4, epochs 6"
    assert by_key["test", "sft", "rouge_l"]["difference"] == ""
    assert (by_key["test", "gkd_base", "rouge_l"]["mean"], by_key["test", "gkd_base", "rouge_l"]["seeds"]) == ("", "0")


def test_pairs_csv_holds_every_pair_once_and_in_full(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=6, change=unscore_off_policy)
    results = with_row(results, "gkd", label='a,b "c"\nd')
    results = with_row(results, "gkd_base", runs=row_of(results, "gkd_base").runs[:2])
    tasks = [pairs_of(table) for table in build_tables(results)]
    lines = list(csv.DictReader(io.StringIO(pairs_csv(tasks))))
    assert list(lines[0]) == [
        "task", "metric", "left", "right", "left_label", "right_label", "difference", "low", "high", "p_value", "seeds",
        "examples"]  # fmt: skip
    assert [line["task"] for line in lines] == ["dev"] * 10 + ["test"] * 10
    by_key = {(line["task"], line["left"], line["right"]): line for line in lines}
    assert list(by_key)[10:14] == [("test", "teacher", other) for other in ("sft", "gkd", "off_policy", "gkd_base")]
    line, versus = by_key["test", "gkd", "gkd_base"], tasks[1].pairs[8].versus
    assert (line["metric"], line["left_label"], line["right_label"]) == ("rouge_l", 'a,b "c"\nd', "GKD (Base-S)")
    numbers = [float(line[key]) for key in ("difference", "low", "high", "p_value")]
    assert numbers == [versus.difference, versus.low, versus.high, versus.p_value]
    assert (line["seeds"], line["examples"]) == ("2", "6")
    line = by_key["test", "sft", "off_policy"]
    assert [line[key] for key in ("difference", "low", "high", "p_value", "seeds", "examples")] == [""] * 4 + ["3", "0"]


def test_search_csv_holds_every_point(tmp_path: Path) -> None:
    search = make_run(tmp_path, count=1).search
    assert search is not None
    lines = list(csv.DictReader(io.StringIO(search_csv(search))))
    assert len(lines) == len(search.points) == 12
    for line, point in zip(lines, search.points, strict=True):
        wanted = {"task": point.task, "stage": point.stage, **point.settings, "value": point.value}
        assert line == {key: str(value) for key, value in (wanted | {"chosen": point.chosen}).items()}


def test_markdown_cannot_be_broken_by_a_label(tmp_path: Path) -> None:
    results = with_row(make_run(tmp_path, count=3), "gkd", label="a|b*\n<script>")
    results = with_row(results, "off_policy", runs=())
    lines = tables_markdown(build_tables(results), "", ()).splitlines()
    (line,) = [line for line in lines[: len(lines) // 2] if "script" in line]
    assert line.startswith(r"| a\|b\* &lt;script> | ")
    assert line.replace(r"\|", "").count("|") == 9
    assert sum("| missing |  | missing |  | none |" in line for line in lines) == 2


def test_a_grid_of_two_keys_becomes_a_matrix(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=1)
    sft, gkd = search_groups(results)
    assert (sft.label, gkd.label, sft.row_key, sft.column_key) == ("SFT", "GKD (SFT-S)", "learning rate", "epochs")
    assert sft.columns == ("2", "4", "6")
    assert [name for name, _ in sft.rows] == ["3e-5", "1e-4"]
    values = [[point.value for point in points if point] for _, points in sft.rows]
    assert values == [pytest.approx([22.3, 24.3, 26.3]), pytest.approx([23, 25, 27])]
    assert sft.at_edge == ("learning rate", "epochs")


def test_other_grids_become_a_list_and_holes_stay_holes(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=1)
    points = tuple(
        SearchPoint("sft", {"schedule": name}, 1.0, chosen=name == "linear", task="dev")
        for name in ("linear", "cosine")
    )
    search = SearchResults(("dev",), {"schedule": ["linear", "cosine"]}, points)
    (group,) = search_groups(dataclasses.replace(results, search=search))
    assert (group.row_key, group.column_key, group.columns, group.at_edge) == ("schedule", "", ("",), ())
    assert [name for name, _ in group.rows] == ["cosine", "linear"]
    pairs = [(1, 2), (3, 2), (3, 4)]
    points = tuple(
        SearchPoint("sft", {"learning_rate": a, "epochs": b}, 1.0, chosen=False, task="dev") for a, b in pairs
    )
    search = SearchResults(("dev",), {"learning_rate": [1, 3], "epochs": [2, 4]}, points)
    (group,) = search_groups(dataclasses.replace(results, search=search))
    assert [[bool(point) for point in points] for _, points in group.rows] == [[True, False], [True, True]]
    assert search_groups(dataclasses.replace(results, search=None)) == []
