"""A recipe's results read from its runs' folders: whole, half done, with a search that is half done, from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pages import do_not_draw
from recipes_fixture import ROWS, Workshop

from tutelage.cli.main import main
from tutelage.recipe.load import load_recipe
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.tables import build_tables
from tutelage.report.recipe.verdicts import yardstick
from tutelage.runs import recipe_results as module
from tutelage.runs.perplexity import perplexity_fact
from tutelage.runs.planner import Planner
from tutelage.runs.recipe_results import RecipeResults, recipe_results
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.search import Search

pytestmark = pytest.mark.slow

SEARCH: dict[str, Any] = {
    "seeds": [0, 1],
    "search": {"task": "test", "grid": {"learning_rate": [0.0005, 0.001]}},
    "stages": [
        {"name": "sft", "kind": "sft", "data": "train", "search": True},
        {"name": "plain", "kind": "sft", "data": "train", "training": {"epochs": 2}},
        {"name": "more", "kind": "sft", "student": "sft", "data": "train", "shared": True, "epochs_of": ["sft"]},
        {"name": "scores", "kind": "evaluate", "models": ["base", "plain", "sft", "more"], "tasks": ["test"]},
    ],
}

FELL = (
    "; higher: its aim is the teacher's probabilities, not the rows' answers; its divergence from them fell (0.02 → "
    "0.01)"
)
ROSE = "; its divergence from the teacher did not fall (0.0025 → 0.0169): take a smaller learning rate"


def read(workshop: Workshop, file: Path) -> RecipeResults:
    return recipe_results(load_recipe(file), workshop.folder, workshop.runs)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("after", "ce_weight", "divergence", "comment"), [
    (1.186, 0.0, (0.02, 0.01), FELL), (1.186, 0.0, (0.0025, 0.0169), ROSE), (1.186, 0.0, (0.01, 0.01), "did not fall"),
    (1.186, 0.0, None, ""), (1.186, 0.1, (0.02, 0.01), ""), (1.100, 0.0, (0.02, 0.01), ""), (1.186, None, None, ""),
])  # fmt: skip
def test_a_higher_perplexity_after_distilling_is_excused_only_where_the_student_got_nearer_to_its_teacher(
    after: float, ce_weight: float | None, divergence: tuple[float, float] | None, comment: str
) -> None:
    config = SimpleNamespace() if ce_weight is None else SimpleNamespace(ce_weight=ce_weight)
    models = {"student": SimpleNamespace(path="student")}
    rows = SimpleNamespace(validation="dev")
    run: Any = SimpleNamespace(stage="gkd", config=config, training=rows, models=models, parents=())
    result = {"perplexity_before": 1.111, "perplexity_after": after}
    if divergence:
        result |= {"divergence_before": divergence[0], "divergence_after": divergence[1]}
    (text,) = perplexity_fact(run, result).values()
    start = f"1.111 before this stage, {after:.3f} after it"
    assert text == start + comment or (comment == "did not fall" and comment in text)


@pytest.mark.long
def test_half_done_and_done(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workshop.write(seeds=[0, 1])
    recipe = load_recipe(file)
    out = workshop.folder / "out"
    nothing = read(workshop, file)
    assert (nothing.done, nothing.planned, list(nothing.facts)) == (0, 9, [])
    assert not workshop.runs.exists()  # looking makes no folder
    with monkeypatch.context() as patch:
        do_not_draw(patch)
        build_report(nothing, out)
    assert "0 of 9 runs are done" in (out / "table.md").read_text()

    made = run_recipe(recipe, workshop.folder, workshop.runs)
    before, whole = contents(workshop.runs), read(workshop, file)
    assert (whole.done, whole.planned) == (9, 9)
    assert whole.rows == made.rows
    assert {row.stage: row.teacher for row in whole.rows if row.kind == "distill"} == {"gkd": "teacher"}
    assert {row.teacher for row in whole.rows if row.kind != "distill"} == {None}
    assert {**whole.facts, "the last call alone": made.facts["the last call alone"]} == made.facts
    build_report(made, workshop.folder / "made")
    main(["report", str(file), "--runs", str(workshop.runs), "--out", str(out)])
    page, same = contents(out), contents(workshop.folder / "made")
    assert page.pop(".owner.json")
    assert page.keys() == same.keys()
    assert {name for name in same if same[name] != page[name]} == {"report.html"}  # by that one fact
    assert b"runs are done" not in page["table.md"] + page["report.html"]
    assert contents(workshop.runs) == before

    (gone,) = workshop.runs.glob("gkd-on-test-s1-*")
    shutil.rmtree(gone)
    (stopped,) = workshop.runs.glob("sft-on-test-s0-*")
    (stopped / "result.json").unlink()
    capsys.readouterr()
    do_not_draw(monkeypatch)
    main(["report", str(file), "--runs", str(workshop.runs), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "7 of 9 runs are done" in printed
    assert "| SFT " not in printed
    rows = {line.split(" | ")[0].strip("| "): line for line in printed.splitlines() if line.startswith("| ")}
    assert " | 1 of 2 | " in rows["gkd"]
    assert " | 1 of 2 | " in rows["sft"]
    html = (out / "report.html").read_text("utf-8")
    assert "7 of 9 runs are done" in html
    assert "runs done so far, one after the other" in html


@pytest.mark.usefixtures("undrawn")
def test_a_half_done_search(workshop: Workshop) -> None:
    """Rows that wait for the search are missing; what does not wait has its scores."""
    file = workshop.write(**SEARCH)
    search = Search(Planner(load_recipe(file), workshop.folder, workshop.runs))
    search.known()
    (small, tried), (large, other) = search.trials["sft"]
    run_recipe(load_recipe(file), workshop.folder, workshop.runs)
    done = read(workshop, file)
    assert (done.done, done.planned) == (13, 13)
    shutil.rmtree(other.folder)

    half = read(workshop, file)
    assert half.search is not None
    assert [(p.settings, p.value is None, p.chosen) for p in half.search.points] == [
        (small, False, False),
        (large, True, False),
    ]
    rows = {row.stage: row for row in half.rows}
    assert [len(rows[name].runs) for name in ("base", "plain", "sft", "more")] == [1, 2, 2, 1]
    assert [(run.seed, run.trained, run.evaluations) for run in rows["sft"].runs] == [(0, None, {}), (1, None, {})]
    assert [(run.seed, run.evaluations, rows["more"].chosen) for run in rows["more"].runs] == [(None, {}, {})]
    assert all((run.evaluations["test"] / "result.json").is_file() for run in rows["plain"].runs)
    assert half.done < half.planned == 13
    build_report(half, workshop.folder / "out")
    table = (workshop.folder / "out" / "table.md").read_text()
    assert f"{half.done} of 13 runs are done" in table
    assert "| sft | missing |  | none |  |" in table
    assert "| plain | missing" not in table
    page = (workshop.folder / "out" / "report.html").read_text("utf-8")
    assert page.count('<span class="missing">missing</span></td></tr>') == 1  # the point that is not done

    shutil.rmtree(tried.folder)
    shutil.rmtree(tried.parents[0].folder)
    none = read(workshop, file)
    assert none.search is not None
    assert [p.value for p in none.search.points] == [None, None]


def test_the_reference_is_the_control_where_there_is_one(workshop: Workshop) -> None:
    """SFT, then SFT on the same data, under whatever name; not SFT that starts from other data, nor a row that is not
    evaluated."""
    stages = [
        {"name": "general", "kind": "sft", "data": "test"},
        {"name": "first", "kind": "sft", "student": "general", "data": "train"},
        {"name": "second", "kind": "sft", "student": "first", "data": "train"},
        {"name": "gkd", "kind": "distill", "student": "first", "data": "train"},
    ]

    def reference(models: list[str], **more: str) -> tuple[str | None, list[str]]:
        scores = {"name": "scores", "kind": "evaluate", "models": models, "tasks": ["test"]} | more
        found = read(workshop, workshop.write(stages=[*stages, scores]))
        return found.reference, [row.stage for row in found.rows if row.control]

    assert reference(["first", "second", "gkd"]) == ("second", ["second"])
    assert reference(["first", "gkd"]) == ("first", [])
    assert reference(["first", "second", "gkd"], compare_to="first") == ("first", ["second"])


def test_a_control_that_trains_for_fewer_steps_is_named(workshop: Workshop) -> None:
    """Steps count from the student on, since as many epochs on more rows are more steps."""
    workshop.rows("more", [row | {"id": f"more {row['id']}"} for row in ROWS])
    stages = [
        {"name": "sft", "kind": "sft", "data": "train"},
        {"name": "again", "kind": "sft", "student": "sft", "data": "train"},
        {"name": "gkd", "kind": "distill", "student": "sft", "data": "train", "on_policy": 0.0},
        {"name": "mix", "kind": "distill", "student": "sft", "data": ["train", "more"], "on_policy": 0.0},
    ]
    scores = {"name": "scores", "kind": "evaluate", "models": ["base", "again", "gkd"], "tasks": ["test"]}
    told = []
    for models in ([], ["mix"]):
        content = [*stages, scores | {"models": [*scores["models"], *models]}]
        file = workshop.write(stages=content, data__more={"path": "more.jsonl"})
        assert models or not any(row.steps for row in read(workshop, file).rows)  # nothing is done
        results = run_recipe(load_recipe(file), workshop.folder, workshop.runs)
        told += yardstick(results, build_tables(results))
    assert [row.steps for row in results.rows] == [None, 6, 6, 9]
    assert told[0].endswith("with a fresh schedule, so that no gain is that of more steps.")
    assert told[1].endswith(
        "with a fresh schedule. But it trained for 6 steps in all, mix for 9: a gain may be that of more steps."
    )


def test_what_made_the_student_is_no_part_of_a_rows_steps_and_each_has_its_size(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [
        {"name": "cut", "kind": "prune", "model": "teacher", "prune": {"keep": [0, 3], "method": "listed"}},
        {"name": "heal", "kind": "sft", "student": "cut", "data": "train", "shared": True},
        {"name": "sft", "kind": "sft", "data": "train"},
        {"name": "again", "kind": "sft", "student": "sft", "data": "train"},
        {"name": "large", "kind": "sft", "student": "teacher", "data": "train"},
        {"name": "scores", "kind": "evaluate", "models": ["base", "sft", "again", "large"], "tasks": ["test"]},
    ]
    file = workshop.write(stages=stages, student="heal")
    assert [row.weights for row in read(workshop, file).rows] == [None] * 4  # nothing is made
    results = run_recipe(load_recipe(file), workshop.folder, workshop.runs)
    assert [row.steps for row in results.rows] == [None, 3, 6, 3]
    base, sft, again, large = (row.weights or 0 for row in results.rows)
    assert 0 < base == sft == again < large
    said = capsys.readouterr()
    assert "note: 9 runs: 5 of stages that make models or data, and 4 evaluations (one per model and task)" in said.err
    assert "9 of 9 runs done" in said.out


def test_runs_of_another_device_are_found(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workshop.write(device="auto", stages__2__models=["lead_1"])
    monkeypatch.setattr(module, "resolve_device", lambda wanted: "cuda")
    assert (read(workshop, file).elsewhere, read(workshop, file).done) == ("", 0)
    recipe = load_recipe(file)
    run_recipe(recipe.model_copy(update={"device": "cpu"}), workshop.folder, workshop.runs)
    found = read(workshop, file)
    assert (found.elsewhere, found.done, found.planned) == ("cpu", 3, 3)
    named = recipe_results(recipe.model_copy(update={"device": "cuda"}), workshop.folder, workshop.runs)
    assert (named.elsewhere, named.done) == ("", 0)  # no CUDA is needed to look
    environment = json.loads(next(workshop.runs.glob("lead_1*/environment.json")).read_text())
    assert found.facts["machine"] == f"{environment['device']}, torch {environment['torch']}"


def test_a_row_says_what_it_began_with_who_taught_it_and_whether_it_is_a_teacher(workshop: Workshop) -> None:
    stages = [
        {"name": "big", "kind": "sft", "student": "teacher", "data": "train"},
        {"name": "bigger", "kind": "sft", "student": "big", "data": "train"},
        {"name": "small", "kind": "sft", "data": ["train", "test"], "label": "Small"},
        {"name": "seqkd", "kind": "seqkd", "data": "train", "teacher": "big"},
        {"name": "own", "kind": "method", "method": "policy_gradient", "data": "train", "teacher": "bigger"},
    ]
    models = ["teacher", "base", *(stage["name"] for stage in stages)]
    scores = {"name": "scores", "kind": "evaluate", "models": models, "tasks": ["test"]}
    results = read(workshop, workshop.write(stages=[*stages, scores]))
    assert {row.stage: (row.start, row.data, row.teacher, row.of_teacher) for row in results.rows} == {
        "teacher": (None, (), None, True),
        "base": (None, (), None, False),
        "big": ("teacher", ("train",), None, True),
        "bigger": ("big", ("train",), None, True),
        "small": ("the student", ("train", "test"), None, False),
        "seqkd": ("Small", ("train",), "big", False),
        "own": ("Small", ("train",), "bigger", False),
    }
