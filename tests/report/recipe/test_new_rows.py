"""Scores on the rows of a task that are not, nor nearly, among those that models are trained or settings chosen on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fake_run import make_run
from pages import Page

from tutelage.report.recipe.new_rows import FEWEST, new_rows
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import RecipeResults


def known(results: RecipeResults, count: int, task: str = "test") -> RecipeResults:
    return dataclasses.replace(results, known_rows={task: frozenset(f"dialogue_{n}" for n in range(count))})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RecipeResults:
    return make_run(tmp_path_factory.mktemp("run"), count=30)


def test_the_score_on_new_rows_is_the_mean_of_their_stored_scores(results: RecipeResults) -> None:
    tables = build_tables(results)
    (one,) = new_rows(known(results, 6), tables)
    assert (one.new, one.rows, len(one.scores)) == (24, 30, 6)
    (table,) = (table for table in tables if table.task == "test")
    for row, value in one.scores:
        stored = [
            [record.scores["rouge_l"] for record in run.records if int(record.id.removeprefix("dialogue_")) >= 6]
            for run in row.runs
        ]
        assert value.value == pytest.approx(100 * np.mean(stored))
        assert value.examples == 24
        if len(row.runs) == 1:
            assert value.stderr == pytest.approx(100 * np.std(stored[0], ddof=1) / 24**0.5)
    assert [row.label for row, _ in one.scores] == [row.label for row in table.rows]
    assert one.note.startswith(
        "task `test`: 24 of the 30 questions are new, neither equal nor nearly equal to one that models are trained or "
        "settings are chosen on; ROUGE-L on these: First line "
    )


def test_too_few_new_rows_have_no_score_and_without_known_rows_nothing_is_said(results: RecipeResults) -> None:
    tables = build_tables(results)
    assert new_rows(results, tables) == []
    assert new_rows(known(results, 3, task="gone"), tables) == []
    (one,) = new_rows(known(results, 30 - FEWEST + 1), tables)
    assert one.scores == ()
    assert "`test`: 19 of the 30 questions are new, " in one.note
    assert one.note.endswith(" are trained or settings are chosen on: too few for a score of their own")


@pytest.mark.slow
def test_the_page_has_both_scores(results: RecipeResults, tmp_path: Path, undrawn: None) -> None:
    page = Page(build_report(known(results, 6), tmp_path / "out").read_text(encoding="utf-8"))
    assert "ROUGE-L on these, beside that on all. model 24 new all 30 First line " in page.text
    page = Page(build_report(results, tmp_path / "out").read_text(encoding="utf-8"))
    assert "New questions" not in page.text
