"""What is unscored is said as unscored: it is in no average, never nan, and not the same as missing."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_study import GENERAL, SIZES, STUDENTS, evaluate, make_study, plan
from pages import Page

from tutelage.common.errors import TutelageError
from tutelage.evaluation.records import ExampleRecord, read_result, write_result
from tutelage.report.labels import AVERAGE
from tutelage.report.numbers import score_text
from tutelage.report.study.answers import answers, gaps
from tutelage.report.study.claims import claims
from tutelage.report.study.figures import build_figures
from tutelage.report.study.page import write_study_report
from tutelage.report.study.read import build_study
from tutelage.report.study.results import paper_value
from tutelage.report.study.tables import build_tables
from tutelage.study.plan import Cell

UNSCORED = "InFoBench is unscored: name a judge"
WHAT_TO_DO = " (`judge` of the study), and run the study again: replies are kept."


def no_judge(cell: Cell, records: list[ExampleRecord]) -> list[ExampleRecord]:
    if cell.task != "infobench":
        return records
    return [replace(record, scores={"drfr": None}) for record in records]


def of_one_student(cell: Cell) -> bool:
    return cell.student != STUDENTS[0] or cell.task not in GENERAL


@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_an_average_names_what_is_not_in_it(tmp_path: Path) -> None:
    cells = [cell for cell in make_study(tmp_path, 40, of_one_student, no_judge) if not of_one_student(cell)]
    study = build_study(cells)
    assert (study.unscored, study.averaged) == (("infobench",), tuple(t for t in GENERAL if t != "infobench"))
    assert (study.headline(STUDENTS[0]), study.label(AVERAGE)) == (AVERAGE, "Average without InFoBench")
    for arm in study.arms:
        scored = [study.results[arm, task].value for task in study.averaged]
        average, unscored = study.results[arm, AVERAGE], study.results[arm, "infobench"]
        assert average.value == pytest.approx(np.mean(scored))
        assert average.stderr > 0
        assert (score_text(unscored), unscored.missing, unscored.unscored_seeds) == ("unscored", (), (0, 1, 2))
        assert paper_value(study, average) is None  # the paper's is of five
    for table in build_tables(study)[::2]:
        assert table.columns[-1] == "Average without InFoBench"
        assert {line.cells[GENERAL.index("infobench")].text for line in table.lines} == {"unscored"}
    panels = [panel for figure in build_figures(study) for panel in figure.panels]
    assert any(getattr(p, "y_label", "") == "average without InFoBench" for p in panels)
    assert any("InFoBench (unscored)" in [label for _, label in getattr(p, "ticks", ())] for p in panels)
    assert gaps(study) == [f"{UNSCORED}{WHAT_TO_DO} It is in no average."]
    for claim in claims(study)[:5]:
        assert len(claim.evidence) > 1
        assert claim.evidence[-1].text == f"{UNSCORED}."
    assert "missing" not in " ".join(sentence.text for sentence in answers(study))


def test_a_study_of_unscored_replies_says_to_name_a_judge(tmp_path: Path) -> None:
    cells = [cell for cell in plan(tmp_path) if cell.task == "infobench"]
    for cell in cells:
        evaluate(cell, 10, no_judge)
    study = build_study(cells)
    assert [claim.evidence[0].text for claim in claims(study)] == [f"{UNSCORED}."] * 5
    assert all(f"not known yet ({UNSCORED})" in sentence.text for sentence in answers(study))
    assert "cells are missing" not in str(answers(study) + claims(study))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_the_page_and_its_files_say_it_too(tmp_path: Path) -> None:
    cells = [c for c in make_study(tmp_path / "runs", 20, of_one_student, no_judge) if not of_one_student(c)]
    report = write_study_report("tiny", cells, tmp_path / "out", include_text=False)
    page = Page(report.page.read_text(encoding="utf-8"))
    assert report.missing == 0
    said = f"{UNSCORED}{WHAT_TO_DO}".replace("`", "")
    assert said in page.text.replace("( ", "(")
    assert "Average without InFoBench" in page.text
    assert "seed 0: unscored" in page.text
    for path in (report.page, *report.tables):
        text = path.read_text(encoding="utf-8").lower()
        assert " nan" not in text, path
        assert ">nan" not in text, path
        assert ",nan" not in text, path
    rows = list(csv.DictReader((tmp_path / "out/cells.csv").open()))
    (row,) = [r for r in rows if (r["task"], r["size"], r["method"]) == ("infobench", "10000", "sft")]
    assert (row["value"], row["seeds"], row["seeds_missing"], row["seeds_unscored"]) == ("", "", "", "0 1 2")
    assert "| unscored |" in (tmp_path / "out/table3.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_where_some_are_scored_the_others_averages_are_unscored(tmp_path: Path) -> None:
    """Half of a study judged, and one arm with one seed judged."""

    def half(cell: Cell, records: list[ExampleRecord]) -> list[ExampleRecord]:
        judged = cell.method == "sft" or (cell.method == "gkd_base" and cell.seed == 0)
        return records if judged else no_judge(cell, records)

    cells = [cell for cell in make_study(tmp_path, 40, of_one_student, half) if not of_one_student(cell)]
    study = build_study(cells)
    assert (study.unscored, study.averaged) == ((), GENERAL)

    def average(method: str) -> str:
        result = study.find(STUDENTS[0], method, SIZES[0], AVERAGE)
        assert result is not None
        assert result.is_missing is math.isnan(result.value)
        return f"{score_text(result).split()[0]}, {result.seeds_text} seeds"

    assert average("gkd_sft") == "unscored, none seeds"
    assert average("gkd_base").endswith(", 1 of 3 seeds")
    assert average("sft").endswith(", 3 seeds")
    assert study.versus(study.find(STUDENTS[0], "gkd_sft", SIZES[0], AVERAGE)) is None


def flores(tmp_path: Path, with_comet: set[int]) -> list[Cell]:
    """Cells of a study that calls FLORES by another name; COMET has scored those of some seeds."""
    cells = [replace(c, task="asm") for c in plan(tmp_path) if c.task == "flores" and c.method in ("sft", "gkd_sft")]
    for cell in cells:
        both = {"chrf": 0.5, "comet": 0.8}
        evaluate(cell, 10, lambda _, records, both=both: [replace(r, scores=r.scores | both) for r in records])
        result = read_result(cell.folder)
        metrics = {"chrf": {"value": 50.0, "stderr": 1.0}} | (
            {"comet": {"value": 80.0, "stderr": 1.0}} if cell.seed in with_comet else {}
        )
        write_result(cell.folder, result | {"task": "flores", "headline": "chrf", "metrics": metrics})
    return cells


@pytest.mark.parametrize(("seeds", "metric", "count"), [({0, 1, 2}, "comet", 0), ({0, 1}, "chrf", 4), ((), "chrf", 12)])
def test_results_with_and_without_comet_are_not_mixed_silently(
    tmp_path: Path, seeds: set[int], metric: str, count: int
) -> None:
    study = build_study(flores(tmp_path, set(seeds)))
    assert {result.metric for result in study.results.values()} == {metric}
    assert study.label("asm") == ("asm (chrF only)" if count else "asm")
    said = f"asm (chrF only): COMET has not scored {count} of 12 evaluations. Run `tutelage setup comet` and the "
    assert gaps(study) == ([f"{said}study again: replies are kept."] if count else [])


def test_scores_of_different_judges_are_refused(tmp_path: Path) -> None:
    cells = [cell for cell in plan(tmp_path) if cell.task == "infobench"][:2]
    for number, cell in enumerate(cells):
        evaluate(cell, 10)
        judge = {"model": f"judge {number}", "rules": "tutelage", "decision": "tutelage", "fingerprint": f"{number}"}
        write_result(cell.folder, read_result(cell.folder) | {"judge": judge})
    with pytest.raises(TutelageError, match=r"is judged by judge 1 \(1\), other evaluations of infobench by judge 0"):
        build_study(cells)
