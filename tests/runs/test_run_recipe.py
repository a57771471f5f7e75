"""Whole tiny recipes: the files of their runs, what is done again, what a failure stops, and runs at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted
from tutelage.recipe.load import load_recipe
from tutelage.runs.perplexity import PERPLEXITY
from tutelage.runs.planner import Planner
from tutelage.runs.recipe_results import RecipeResults, ResultTask
from tutelage.runs.run import Run
from tutelage.runs.run_recipe import run_recipe
from tutelage.runs.stages import train as train_stage
from tutelage.runs.worker import attempt, lock

pytestmark = pytest.mark.slow

STAGES: list[dict[str, Any]] = [
    {"name": "cut", "kind": "prune", "prune": {"keep": [0, 3], "calibration": "test"}},
    {
        "name": "heal",
        "kind": "sft",
        "student": "cut",
        "data": "train",
        "shared": True,
        "label": "Healed",
        "training": {"validation": "test"},
    },
    {"name": "teacher_sft", "kind": "sft", "student": "teacher", "data": "train", "training": {"epochs": 2}},
    {"name": "sft", "kind": "sft", "data": "train"},
    {"name": "gkd", "kind": "distill", "teacher": "teacher_sft", "data": "train", "sampling": {"max_new_tokens": 6}},
    {"name": "scores", "kind": "evaluate", "models": ["lead_1", "base", "teacher", "sft", "gkd"], "tasks": ["test"]},
]
WHOLE = {"student": "heal", "stages": STAGES}


def do(workshop: Workshop, jobs: int = 1, runs: Path | None = None, **changes: Any) -> RecipeResults:
    return run_recipe(load_recipe(workshop.write(**changes)), workshop.folder, runs or workshop.runs, jobs)


def numbers(runs: Path) -> dict[str, Any]:
    """Everything the results say but the clock, by folder."""
    out = {}
    for file in sorted(runs.glob("*/result.json")):
        result = json.loads(file.read_text())
        result.pop("seconds")
        last = result.get("last") or {}
        result["last"] = {k: v for k, v in last.items() if "seconds" not in k and "per_s" not in k}
        out[file.parent.name] = result
    return out


def test_a_whole_recipe(workshop: Workshop, done: list[str]):
    results = do(workshop, seeds=[0, 1], **WHOLE)
    # Each run once: those for all seeds a single time, parents before children.
    assert sorted(done) == sorted(
        ["cut", "heal", "lead_1 on test", "base on test", "teacher on test"]
        + ["teacher_sft", "sft", "gkd", "sft on test", "gkd on test"] * 2
    )
    assert done.index("cut") < done.index("heal") < done.index("sft") < done.index("gkd") < done.index("gkd on test")
    assert not list(workshop.runs.glob("*/lock"))
    assert not list(workshop.runs.glob("*/checkpoints"))

    cut, heal = workshop.result("cut"), workshop.result("heal")
    assert (cut["keep"], cut["layers"]) == ([0, 3], 4)
    assert heal["perplexity_before"] == pytest.approx(cut["perplexity_after"], rel=1e-5)
    assert heal["perplexity_after"] < heal["perplexity_before"]
    (folder,) = workshop.runs.glob("gkd-s1-*")
    made = {p.name for p in folder.iterdir()}
    files = {
        "config.json",
        "environment.json",
        "data.json",
        "questions.json",
        "metrics.jsonl",
        "checksums.json",
        "result.json",
    }
    assert made == files | {"model", "samples.jsonl"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert json.loads((folder / "config.json").read_text())["training"]["learning_rate"] == 0.001
    assert json.loads((folder / "data.json").read_text())["train"] == {
        "rows": 12,
        "cut": 0,
        "too_long": [],
        "last_turns_cut": [],
        "bad_rows": [],
        "one_question": True,
    }

    assert (results.name, results.seeds, results.reference) == ("tiny", (0, 1), "sft")
    assert results.tasks == {"test": ResultTask("rouge_l", ("rouge_l",), data="test.jsonl")}
    rows = {row.stage: row for row in results.rows}
    assert list(rows) == ["lead_1", "base", "teacher", "sft", "gkd"]
    assert [run.seed for run in rows["gkd"].runs] == [0, 1]
    assert [run.seed for name in ("lead_1", "base", "teacher") for run in rows[name].runs] == [None] * 3
    for row in results.rows:
        for run in row.runs:
            assert len((run.evaluations["test"] / "examples.jsonl").read_text().splitlines()) == 4
            assert run.trained is None or (run.trained / "model" / "config.json").is_file()
    assert results.facts["cut: layers kept"].startswith("0, 3 (of 4); without the others")
    said = {name: text for name, text in results.facts.items() if "perplexity on" in name}
    measured = [heal["perplexity_before"], heal["perplexity_after"]]
    assert said["heal: perplexity on the rows of test"] == "{:,.1f} when just cut, {:,.1f} after it".format(*measured)
    assert said["cut: perplexity on the rows of test"].endswith(f"before layers were cut, {measured[0]:,.1f} after")
    assert [*results.facts.values()].count(PERPLEXITY) == 1
    assert (results.done, results.planned) == (len(done), len(done))


def test_a_second_call_starts_nothing(workshop: Workshop, done: list[str], capsys: pytest.CaptureFixture[str]):
    words = (
        "note: stage `cut` cuts layers out of a model, and `heal` trains the rest until it writes again; (seed 0) is"
    )
    first = do(workshop, **WHOLE)
    assert capsys.readouterr().err.count(words) == 1
    stamps = {p: p.stat().st_mtime_ns for p in workshop.runs.rglob("*") if p.parent != workshop.runs and p.is_file()}
    done.clear()
    second = do(workshop, **WHOLE)
    assert done == []
    assert words not in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert second.rows == first.rows
    # A change does again only what hangs on it, under whatever name the recipe has.
    changed = [*STAGES[:4], STAGES[4] | {"beta": 0.1}, STAGES[5]]
    do(workshop, **WHOLE | {"name": "other", "stages": changed})
    assert done == ["gkd", "gkd on test"]


@pytest.mark.long
def test_two_at_once_give_the_same_numbers(workshop: Workshop, warm_children: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as this process has it: other threads, other last digits
    bad = {"name": "bad", "kind": "sft", "data": "train", "training": {"learning_rate": 1e30}}
    after = {"name": "after", "kind": "sft", "student": "bad", "data": "train"}
    do(workshop, **WHOLE)
    with pytest.raises(TutelageError, match=r"^bad: loss .* at step 2 .*Lower `learning_rate`"):
        do(workshop, 2, workshop.folder / "beside", **WHOLE | {"stages": [*STAGES, bad, after]})
    alone, beside = numbers(workshop.runs), numbers(workshop.folder / "beside")
    assert len(alone) == 10
    assert alone == beside
    assert not list((workshop.folder / "beside").glob("after-*"))


def test_what_a_shared_stage_made_is_one_model_whatever_it_builds_on(workshop: Workshop, done: list[str]):
    stages = [
        {"name": "one", "kind": "sft", "data": "train"},
        {"name": "shared", "kind": "sft", "student": "one", "data": "train", "shared": True},
        {"name": "scores", "kind": "evaluate", "models": ["base", "shared"], "tasks": ["test"]},
    ]
    results = do(workshop, stages=stages, seeds=[1, 2], student="one", stages__0__student="teacher")
    seeds = {row.stage: [run.seed for run in row.runs] for row in results.rows}
    assert seeds == {"base": [1, 2], "shared": [None]}
    assert (done.count("shared"), done.count("shared on test"), done.count("base on test")) == (1, 1, 2)


def test_the_search_takes_the_best_point_for_all_seeds(workshop: Workshop, done: list[str]):
    """Only a rate that changes anything can learn the answers, so the best point is known beforehand."""
    workshop.rows("train", [ROWS[0]] * 4)
    workshop.rows("test", [ROWS[0]])
    stages = [
        {"name": "sft", "kind": "sft", "data": "train", "search": True},
        {"name": "more", "kind": "sft", "student": "sft", "data": "train", "epochs_of": ["sft"]},
        {"name": "scores", "kind": "evaluate", "models": ["sft", "more"], "tasks": ["test"]},
    ]
    results = do(
        workshop,
        stages=stages,
        seeds=[3, 4],
        tasks__test__sampling__max_new_tokens=20,
        search={"task": "test", "grid": {"learning_rate": [1e-9, 1e-2], "epochs": [1, 40]}},
    )
    assert results.search is not None
    points = results.search.points
    tried = [(p.settings["learning_rate"], p.settings["epochs"]) for p in points]
    assert tried == [(1e-9, 1), (1e-9, 40), (1e-2, 1), (1e-2, 40)]
    values = [p.value for p in points if p.value is not None]
    assert values[3] == 100.0 > max(values[:3])
    assert [p.chosen for p in points] == [False, False, False, True]
    rows = {row.stage: row for row in results.rows}
    assert rows["sft"].chosen == {"learning_rate": 1e-2, "epochs": 40}
    assert rows["more"].chosen == {"epochs": 40}
    # Four trials with the first seed, of which the best is that seed's run; then the other seed.
    assert done.count("sft") == 5
    for run in rows["sft"].runs:
        assert run.trained is not None
        config = json.loads((run.trained / "config.json").read_text())
        assert (config["training"]["learning_rate"], config["training"]["epochs"]) == (1e-2, 40)


def test_of_equal_points_the_first_is_taken(workshop: Workshop):
    results = do(
        workshop,
        stages__0__search=True,
        stages__2__models=["sft"],
        stages__1={"name": "none", "kind": "prune", "prune": {"keep": [0]}},
        search={"task": "test", "grid": {"learning_rate": [1e-9, 1e-10]}},
    )
    assert results.search is not None
    points = results.search.points
    assert points[0].value == points[1].value
    assert [p.chosen for p in points] == [True, False]


def test_a_failure_stops_only_what_builds_on_it(workshop: Workshop, capfd: pytest.CaptureFixture[str]):
    stages = [
        {"name": "bad", "kind": "sft", "data": "train", "training": {"learning_rate": 1e30}},
        {"name": "after", "kind": "sft", "student": "bad", "data": "train"},
        {"name": "good", "kind": "sft", "data": "train"},
        {"name": "scores", "kind": "evaluate", "models": ["bad", "after", "good"], "tasks": ["test"]},
    ]
    with pytest.raises(TutelageError, match=r"^bad: loss .* at step 2 .*Lower `learning_rate`"):
        do(workshop, stages=stages)
    finished = sorted(p.parent.name.rsplit("-", 2)[0] for p in workshop.runs.glob("*/result.json"))
    assert finished == ["good", "good-on-test"]
    assert not list(workshop.runs.glob("after-*"))
    assert capfd.readouterr().out.count("failed: bad: loss") == 1
    assert not list(workshop.runs.glob("*/lock"))


def test_recipes_without_scores_or_without_training(workshop: Workshop):
    assert do(workshop, stages=[STAGES[3]]).rows == ()
    assert workshop.result("sft")["last"]["step"] == 3
    only = {"name": "scores", "kind": "evaluate", "models": ["base", "lead_1"], "tasks": ["test"]}
    results = do(workshop, stages=[only])
    assert [row.stage for row in results.rows] == ["base", "lead_1"]
    assert "machine" in results.facts


# --- locks ----------------------------------------------------------------------------------------------------------


def planned(workshop: Workshop) -> Run:
    return Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs).stage_run("sft", 0)


def test_a_folder_that_a_living_process_holds_is_left_alone(workshop: Workshop, done: list[str]):
    run = planned(workshop)
    run.folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        (run.folder / "lock").write_text(str(holder.pid))
        said = attempt(run)
        assert said == f"sft: process {holder.pid} is working on {run.folder}; wait for it, or stop it"
        assert (done, [p.name for p in run.folder.iterdir()]) == ([], ["lock"])
        assert (run.folder / "lock").read_text() == str(holder.pid)
        holder.communicate(b"\n")
    # Now it is over, and its lock counts for nothing.
    assert attempt(run) is None
    assert done == ["sft"]
    assert run.done
    assert not (run.folder / "lock").exists()


def test_another_users_process_counts_as_living(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    run = planned(workshop)
    run.folder.mkdir(parents=True)
    (run.folder / "lock").write_text("1")

    def refused(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert lock(run) is None


@pytest.mark.parametrize("content", ["", "0", "-1", "nonsense", pytest.param(str(os.getpid()), id="this process")])
def test_locks_left_behind(workshop: Workshop, content: str):
    run = planned(workshop)
    run.folder.mkdir(parents=True)
    (run.folder / "lock").write_text(content)
    assert lock(run) is not None


def test_an_unforeseen_error_is_one_line_and_a_log(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(train_stage, "save_student", broken)
    run = planned(workshop)
    said = attempt(run)
    assert said == f"sft: RuntimeError: out of luck (traceback: {run.folder / 'error.log'})"
    assert "in broken" in (run.folder / "error.log").read_text()
    assert not (run.folder / "lock").exists()
    with pytest.raises(RuntimeError, match="out of luck"):
        attempt(run, debug=True)
    assert not (run.folder / "lock").exists()


def test_a_request_to_stop_ends_the_whole_recipe(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked: list[str] = []

    def stopped(run: Run) -> dict[str, Any]:
        asked.append(run.stage)
        raise Interrupted("stopped after step 1; the same command goes on from there")

    monkeypatch.setattr(train_stage, "train", stopped)
    with pytest.raises(Interrupted, match="the same command goes on"):
        do(workshop, **WHOLE)
    assert len(asked) == 1
    assert not list(workshop.runs.glob("*/lock"))
    assert "already" not in capsys.readouterr().out
    with pytest.raises(Interrupted):
        do(workshop, **WHOLE)
    assert "tiny: 1 of 10 runs are done already; heal is next\n" in capsys.readouterr().out
