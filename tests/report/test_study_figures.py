"""Every arm that the paper shows is drawn: each figure and table of recipes/paper on made-up evaluations of its own
cells, and studies whose cells come from several grids or lack a value of an axis."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from pathlib import Path

import pytest
from fake_study import STRONGER, TEACHER, evaluate

from tutelage.report.labels import AVERAGE
from tutelage.report.study.claims import claims
from tutelage.report.study.figures import Panel, StudyFigure, build_figures, undrawn
from tutelage.report.study.read import build_study
from tutelage.report.study.results import Study
from tutelage.report.study.table_files import study_csv
from tutelage.report.study.tables import StudyTable, build_tables
from tutelage.study.grid import plan_study
from tutelage.study.plan import Cell, cells

pytestmark = pytest.mark.slow
PAPER = Path(__file__).parents[2] / "recipes" / "paper"
STUDENTS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b")
NINE = (10_000, 20_000, 40_000, 80_000, 100_000, 150_000, 200_000, 500_000, 939_343)
TASKS = ("Translation", "Summarization", "ARC-Challenge")


@functools.cache
def paper_study(name: str, root: Path) -> Study:
    """The study of a file of recipes/paper, its cells evaluated on twelve examples."""
    planned = cells(plan_study(PAPER / f"{name}.yaml", root, partial=True), root)
    for cell in planned:
        evaluate(cell, 12)
    return build_study(planned)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


def figure(study: Study, name: str) -> StudyFigure:
    return next(one for one in build_figures(study) if one.name == name)


def points(panel: object) -> dict[str, int]:
    """How many points each series of a panel has, but for the paper's own values."""
    assert isinstance(panel, Panel)
    assert not any(math.isnan(p.y) for s in panel.series for p in s.points if not s.look.faint)
    return {series.look.label: len(series.points) for series in panel.series if not series.look.faint}


def table(study: Study, name: str) -> StudyTable:
    return next(one for one in build_tables(study) if one.name == name)


def heads(made: StudyTable) -> list[tuple[str, ...]]:
    assert not any(math.isnan(cell.result.value) for line in made.lines for cell in line.cells if cell.result)
    return [line.heads for line in made.lines]


def test_figure_1(root: Path) -> None:
    left, right = figure(paper_study("figure1", root), "figure1").panels
    assert points(left) == {"SFT": 9, "SFT again": 9, "GKD (Base-S)": 9, "GKD (SFT-S)": 9}
    assert points(right) == {"GKD (Base-S)": 6, "GKD (SFT-S)": 6}


def test_figure_2_and_table_3(root: Path) -> None:
    study = paper_study("table3", root)
    panels = figure(study, "figure2").panels
    assert [panel.title for panel in panels] == [*STUDENTS]
    assert [points(panel) for panel in panels] == 3 * [{"SFT": 9, "SFT again": 9, "GKD (SFT-S)": 9}]
    found = heads(table(study, "table3"))
    assert len(found) == 3 * 9 * 3
    assert {(student, method) for student, _, method in found} == {
        (student, method) for student in STUDENTS for method in ("SFT", "SFT again", "GKD (SFT-S)")
    }


def test_figure_3_and_table_1(root: Path) -> None:
    (panel,) = figure(paper_study("figure3", root), "figure3").panels
    assert points(panel) == {"GKD (SFT-S)": 6, "GKD-IT": 6}
    found = heads(table(paper_study("table1", root), "table1"))
    assert found == [("llama-3.1-8b", method) for method in ("SFT", "SFT again", "GKD (SFT-S)", "SeqKD")]


def test_figure_4(root: Path) -> None:
    panels = figure(paper_study("figure4", root), "figure4").panels
    assert [panel.title for panel in panels] == [*TASKS]
    assert [points(panel) for panel in panels] == 3 * [{"SFT": 3, "SFT again": 3, "GKD (SFT-S)": 3}]


def test_table_2(root: Path) -> None:
    made = table(paper_study("table2", root), "table2")
    assert [one for (one,) in heads(made)] == ["Teacher", *STUDENTS]
    assert made.columns == 3 * ("SFT", "SFT again", "GKD (SFT-S)", "Mix", "Two-stage")
    assert all(cell.result is not None for line in made.lines[1:] for cell in line.cells)


def test_figure_5_begins_with_gkd_and_compares_with_it(root: Path) -> None:
    study = paper_study("figure5", root)
    panels = figure(study, "figure5").panels
    assert [panel.title for panel in panels] == [*TASKS]
    for panel, task in zip(panels, study.domain, strict=True):
        assert points(panel) == {f"{student}, two-stage": 6 for student in STUDENTS}
        assert isinstance(panel, Panel)
        assert [label for _, label in panel.ticks] == ["0 (GKD)", "5k", "10k", "20k", "50k", "100k"]
        for student, series in zip(STUDENTS, panel.series, strict=True):
            gold = study.find(student, "gkd_sft", None, task)
            assert gold is not None
            assert (series.points[0].y, series.points[0].of) == (gold.value, gold.anchor)
            assert series.points[0].x < series.points[1].x
    made = table(study, "figure5")
    assert heads(made) == [(task, student, "Two-stage") for task in TASKS for student in STUDENTS]
    assert made.columns == ("0 (GKD)", "5k", "10k", "20k", "50k", "100k")
    rows = list(csv.DictReader(study_csv(made).splitlines()))
    assert len(rows) == 3 * 3 * 6
    compared = [row for row in rows if row["method"] == "two_stage"]
    assert {row["size"] for row in compared if row["paper"]} == {"100000"}  # table 2's
    assert {row["reference"] for row in compared} == {"gkd_sft"}
    for row in compared:
        gold = study.find(row["student"], "gkd_sft", None, row["task"])
        assert gold is not None
        assert float(row["difference"]) == pytest.approx(float(row["value"]) - gold.value)
    stars = {cell.result.anchor for line in made.lines for cell in line.cells if cell.mark == "**" and cell.result}
    drawn = {p.of for panel in panels if isinstance(panel, Panel) for s in panel.series for p in s.points if p.shown}
    assert stars == drawn


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("figure1", "What each method adds to SFT again"),
        ("figure5", "What each method adds to GKD (SFT-S)"),
    ],
)
def test_the_first_figure_names_what_is_added_to(root: Path, name: str, title: str) -> None:
    """Figure 5's study has no SFT at all."""
    assert figure(paper_study(name, root), "answer").title == title


@pytest.mark.parametrize("name", ["figure1", "table3", "figure3", "figure4", "table2", "figure5"])
def test_no_arm_of_the_paper_is_in_no_figure(root: Path, name: str) -> None:
    study = paper_study(name, root)
    assert undrawn(study, build_figures(study)) == []


def made_up(root: Path, *plan: tuple[int | None, str, str | None, tuple[str, ...]]) -> Study:
    """Cells of one student, (size, method, teacher, tasks), evaluated with three seeds."""
    found = [
        Cell(size, "s", method, teacher, seed, task, root / f"{size}-{method}-{(teacher or '')[-5:]}-{task}-{seed}")
        for size, method, teacher, tasks in plan
        for task in tasks
        for seed in range(3)
    ]
    for cell in found:
        evaluate(cell, 12)
    return build_study(found)


def test_all_rows_of_data_whose_number_is_not_known_are_the_largest_size(tmp_path: Path) -> None:
    tasks = ("bbh", "ifeval")
    arms = [(size, m, None if m == "sft" else TEACHER, tasks)
            for size in (10_000, None) for m in ("sft", "gkd_base", "gkd_sft", "gkd_it", "seqkd")]  # fmt: skip
    study = made_up(tmp_path, *arms)
    for name, panel in ((name, figure(study, name).panels[0]) for name in ("answer", "figure1", "figure2")):
        assert isinstance(panel, Panel)
        assert panel.ticks == ((10_000.0, "10k"), (20_000.0, "all")), name
        assert {len(series.points) for series in panel.series} == {2}
    assert [line.heads[1] for line in table(study, "table1").lines] == ["SFT", "GKD (SFT-S)", "SeqKD"]
    assert "all rows" in table(study, "table1").title
    assert figure(study, "figure3").panels[0].title == "s, all rows"


def test_two_grids_may_score_a_method_on_different_tasks(tmp_path: Path) -> None:
    """GKD-IT and SeqKD are scored on one task of two, so they have no average, but a figure and a table."""
    whole = [(10_000, m, None if m == "sft" else TEACHER, ("bbh", "ifeval")) for m in ("sft", "gkd_sft")]
    study = made_up(
        tmp_path, *whole, (10_000, "gkd_it", STRONGER, ("ifeval",)), (10_000, "seqkd", TEACHER, ("ifeval",))
    )
    (panel,) = figure(study, "figure3").panels
    assert isinstance(panel, Panel)
    assert [math.isnan(point.y) for point in panel.series[1].points] == [True, False, True]
    tested = {claim.text.split(" (")[0]: claim.evidence[0].text for claim in claims(study)}
    assert tested["A stronger teacher restores the gain at full size"].startswith("s at 10k on IFEval, GKD-IT against")
    assert tested["SeqKD equals GKD at full size"].startswith("s at 10k on IFEval, SeqKD against")
    assert [line.heads[1] for line in table(study, "table1").lines] == ["SFT", "GKD (SFT-S)", "SeqKD"]


def test_gold_arms_of_a_grid_with_sizes_are_one_run_and_size_zero(tmp_path: Path) -> None:
    """One grid for all methods: SFT and GKD have each synthetic size, but the same run for all."""
    planned = []
    for size in (5_000, 10_000):
        for method in ("sft", "gkd_sft", "two_stage"):
            name = method if method != "two_stage" else f"{method}{size}"
            planned.append(Cell(size, "s", method, TEACHER, 0, "dialogsum", tmp_path / name))
    for cell in planned:
        evaluate(cell, 12)
    study = build_study(planned)
    (panel,) = figure(study, "figure5").panels
    assert points(panel) == {"s, two-stage": 3}
    reference = study.reference(study.having("s", ("two_stage",), "dialogsum")[1])
    assert reference is not None
    assert (reference.arm.method, reference.cells[0].folder.name) == ("sft", "sft")


def test_what_no_figure_shows_is_named(tmp_path: Path) -> None:
    """Arms of a second teacher and of a method that no figure knows."""
    tasks = ("bbh", "ifeval")
    study = made_up(tmp_path, (10_000, "sft", None, tasks), (10_000, "gkd_sft", TEACHER, tasks),
                    (10_000, "gkd_sft", STRONGER, tasks), (10_000, "minillm", TEACHER, tasks))  # fmt: skip
    left = undrawn(study, build_figures(study))
    assert [(one.arm.method, one.arm.teacher) for one in left] == [("gkd_sft", STRONGER), ("minillm", TEACHER)]
    assert AVERAGE in {task for _, task in study.results}
    assert dataclasses.replace(left[0].arm, teacher=TEACHER) in study.arms
