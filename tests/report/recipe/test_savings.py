"""What the model to use saves and gives up beside its teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fake_run import make_run, row_of, with_row

from tutelage.evaluation.records import ExampleRecord
from tutelage.report.numbers import NARROW
from tutelage.report.recipe.choice import asked
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.pairs import pairs_of
from tutelage.report.recipe.savings import beside_teacher, given_up, size_text
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import RecipeResults

RIGHT = {"teacher": 40, "sft": 20, "gkd": 25}


def made(folder: Path, right: dict[str, int], **weights: int) -> RecipeResults:
    """Results of one seed whose rows are `right` on so many of 40 examples and have so many weights."""

    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        return [dataclasses.replace(one, scores=dict.fromkeys(one.scores, float(n < right.get(stage, 0))))
                for n, one in enumerate(records)]  # fmt: skip

    found = make_run(folder, count=40, change=change)
    rows = tuple(
        dataclasses.replace(row, runs=row.runs[:1], weights=weights.get(row.stage), of_teacher=row.stage == "teacher",
                            teacher="teacher" if row.stage == "gkd" else None)
        for row in found.rows if row.stage in right
    )  # fmt: skip
    return dataclasses.replace(found, seeds=(0,), tasks={"test": found.tasks["test"]}, search=None, rows=rows)


def sentences(results: RecipeResults, stage: str) -> list[str]:
    tables = build_tables(results)
    pairs = [pairs_of(table) for table in tables]
    known = beside_teacher(results, tables, pairs, stage) | asked(results, tables, pairs)
    return [text.replace(NARROW, " ") for text in given_up(results, pairs, stage, known)]


def test_sizes_beside_the_teachers_where_both_are_known(tmp_path: Path) -> None:
    results = made(tmp_path, RIGHT, teacher=134_515_008, gkd=63_700_000, sft=63_700_000)
    given = {row.stage: dataclasses.replace(row, runs=()) for row in results.rows}
    results = dataclasses.replace(results, rows=tuple(given.values()))
    what = "has 63.7 million parameters, 47 % of its teacher's: Teacher (SFT) has 135 million."
    assert size_text(results, "gkd") == f"GKD (SFT-S) {what}"
    assert size_text(results, "sft") == f"SFT {what}"  # no teacher of its own: that of the other students
    assert size_text(results, "teacher") == ""
    assert size_text(with_row(results, "teacher", weights=None), "gkd") == ""
    assert size_text(with_row(results, "gkd", weights=134_515_008), "gkd") == ""  # not smaller
    assert "has 1.5 billion." in size_text(with_row(results, "teacher", weights=1_500_000_000), "gkd")


@pytest.mark.parametrize("adapter", [False, True])
def test_the_size_on_disk_is_that_of_whole_weights(tmp_path: Path, adapter: bool) -> None:
    results = made(tmp_path, RIGHT, teacher=2_000_000, gkd=1_000_000)
    run = row_of(results, "gkd").runs[0]
    assert run.trained is not None
    (run.trained / "model").mkdir()
    (run.trained / "model" / "model.safetensors").write_bytes(bytes(4_000_000))
    if adapter:
        (run.trained / "model" / "adapter_config.json").write_text("{}")
    disk = "" if adapter else " (4 MB on disk)"
    assert size_text(results, "gkd").startswith(f"GKD (SFT-S) has 1 million parameters{disk}, 50 % of")


@pytest.mark.slow
def test_how_much_more_the_teacher_scores_is_corrected_and_said_only_where_it_does(tmp_path: Path) -> None:
    results = made(tmp_path / "a", RIGHT)
    (text,) = sentences(results, "gkd")
    assert text.startswith("Teacher (SFT) scores 37.5 above GKD (SFT-S) (95 % interval ")
    assert text.endswith(", p < 0.001 after correction): so much is given up.")
    near = made(tmp_path / "b", {**RIGHT, "teacher": 30})
    tables = build_tables(near)
    pairs = [pairs_of(table) for table in tables]
    alone = next(pair for pair in pairs[0].pairs if {pair.left.stage, pair.right.stage} == {"teacher", "gkd"})
    found = beside_teacher(near, tables, pairs, "gkd")
    # the three pairs of the teacher and both students; GKD against SFT has as small a p, teacher against SFT a smaller
    assert [*found.values()] == [pytest.approx(2 * alone.versus.p_value, rel=0.3)]
    assert sentences(made(tmp_path / "c", {**RIGHT, "teacher": 25}), "gkd") == []


@pytest.mark.usefixtures("undrawn")
def test_the_page_has_both_in_its_box(tmp_path: Path) -> None:
    results = made(tmp_path, RIGHT, teacher=2_000_000, gkd=1_000_000, sft=1_000_000)
    page = build_report(results, tmp_path / "out").read_text(encoding="utf-8")
    box = page.partition('<div class="choice">')[2].partition("</div>")[0]
    assert "GKD (SFT-S) has 1 million parameters, 50 % of its teacher" in box
    assert "Teacher (SFT) scores 37.5 above GKD (SFT-S)" in box
    pairs = page.partition('<table class="pairs">')[2].partition("</table>")[0]
    assert 'class="untested"' not in pairs  # the teacher is tested against the model to use, too
