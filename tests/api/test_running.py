"""`load_recipe`, `plan`, `run` and `evaluate` on recipes and benchmarks, and what they say of mistakes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop
from tiny_benchmarks import write_data

import tutelage


def test_overrides_are_a_dict_or_texts(workshop: Workshop) -> None:
    file = workshop.write()
    recipe = tutelage.load_recipe(str(file), {"training.epochs": 3, "stages.gkd.beta": 1e-05, "description": "a: b"})
    assert (recipe.training.epochs, recipe.stages[1].beta, recipe.description) == (3, 1e-05, "a: b")  # type: ignore[union-attr]
    assert tutelage.load_recipe(file, ["training.epochs=3"]).training.epochs == 3


@pytest.mark.slow
def test_a_plan_names_every_run_and_what_stops_it(workshop: Workshop) -> None:
    plan = tutelage.plan(workshop.write(), runs=workshop.runs)
    assert [(run.stage, run.kind, run.done) for run in plan.runs][:3] == [
        ("sft", "student SFT", False),
        ("gkd", "distill", False),
        ("lead_1 on test", "evaluation", False),
    ]
    assert plan.problems == ()
    assert not workshop.runs.exists()
    assert re.search(r"5 of 5 runs to do, (about|a few) .* on this machine \(\d+ CPU cores, \d+ GiB\)", repr(plan))
    there = tutelage.plan(workshop.write(), runs=workshop.runs, machine="H100")
    assert there.machine == "one H100"
    assert there.runs[0].hours != plan.runs[0].hours
    assert list(plan.frame().stage)[:2] == ["sft", "gkd"]
    stopped = tutelage.plan(workshop.write(teacher__chat_template="no.jinja"), runs=workshop.runs)
    assert "problem: chat_template: there is no file `no.jinja`" in str(stopped)


@pytest.mark.slow
def test_a_plan_says_what_changed_since_runs_that_are_not_reused(workshop: Workshop) -> None:
    assert tutelage.plan(workshop.write(), runs=workshop.runs).not_reused == ()
    tutelage.run(workshop.write(), runs=workshop.runs)
    plan = tutelage.plan(workshop.write(), {"training.epochs": 3}, runs=workshop.runs)
    line = "earlier runs of `sft` and `gkd` are not reused, nor what builds on them: training.epochs 1 → 3"
    assert plan.not_reused == (line,)
    assert line in str(plan)


@pytest.mark.slow
def test_a_loaded_recipe_is_planned_from_its_folder(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tutelage.load_recipe(workshop.write())
    from_file = tutelage.plan(workshop.folder / "recipe.yaml", runs=workshop.runs)
    assert tutelage.plan(recipe, folder=workshop.folder, runs=workshop.runs) == from_file
    monkeypatch.chdir(workshop.folder)
    assert tutelage.plan(recipe, runs=workshop.runs) == from_file


@pytest.mark.slow
def test_run_is_what_the_command_does(workshop: Workshop, undrawn: None, done: list[str]) -> None:
    result = tutelage.run(workshop.write(), {"training.max_steps": 1}, runs=workshop.runs, text=False)
    assert sorted(done) == ["gkd", "gkd on test", "lead_1 on test", "sft", "sft on test"]
    assert result.page == workshop.runs / "tiny-report" / "report.html"
    assert [one.model for one in result.scores] == ["lead_1", "sft", "gkd"]
    assert result.reference == "sft"
    assert ROWS[0]["prompt"] not in result.page.read_text()
    assert "max_steps=1" in (workshop.folder / "models" / "tiny-gkd" / "README.md").read_text()


@pytest.mark.slow
def test_a_forecast_is_what_the_command_says(workshop: Workshop, undrawn: None) -> None:
    rows = [ROWS[i % 12] | {"id": f"r{i}"} for i in range(120)]
    workshop.rows("train", rows)
    found = tutelage.forecast(workshop.write(), {"training.max_steps": 2}, pilot="short", runs=workshop.runs)
    written = json.loads((found.page.parent / "forecast.json").read_text())
    assert found.page == workshop.runs / "tiny-forecast" / "forecast.html"
    assert (found.choice, found.why) == (written["answer"], written["why"])
    assert [found.gain.value, found.gain.low, found.gain.high] == [written["gain"][k] for k in ("mean", "low", "high")]
    assert found.loss_gain.chance == written["loss_gain"]["chance_above_0"]
    (pilot,) = written["known"]["pilots"]
    score, loss = found.pilots
    assert (score.rows, score.metric, score.value, loss.value) == (24, "rouge_l", pilot["gain"], pilot["loss_gain"])
    assert score.high - score.low == pytest.approx(2 * 1.2815516 * pilot["gain_se"])
    assert found.prices == written["prices"]
    assert len(found.frame()) == 4


@pytest.mark.slow
def test_benchmarks_are_scored(tiny_models: Path, tmp_path: Path) -> None:
    found = tutelage.evaluate(
        tiny_models / "student",
        ["arc_challenge", "mmlu_pro"],
        limit=2,
        max_new_tokens=4,
        data_dir=write_data(tmp_path / "data"),
        out=tmp_path / "out",
    )
    assert {one.task for one in found.scores} == {"arc_challenge", "mmlu_pro"}
    assert all((folder / "examples.jsonl").is_file() for folder in found.folders.values())
    other = {"path": str(tiny_models / "student"), "chat_template": "tulu"}
    with pytest.raises(tutelage.TutelageError, match="made with another `model_fingerprint`"):
        tutelage.evaluate(other, "arc_challenge", max_new_tokens=4, data_dir=tmp_path / "data", out=tmp_path / "out")
    with pytest.raises(tutelage.TutelageError, match="an evaluation of 2 tasks"):
        tutelage.compare(found, found)
    again = shutil.copytree(tmp_path / "out", tmp_path / "again")
    assert tutelage.compare(tmp_path / "out", again).differences[0].difference == 0


MISTAKES: list[tuple[Callable[[Workshop], Any], str]] = [
    (lambda w: tutelage.run("nowhere.yaml"), "recipe nowhere.yaml does not exist"),
    (lambda w: tutelage.run(w.write(), {"trainin.epochs": 3}), "unknown key `trainin`: did you mean `training`?"),
    (lambda w: tutelage.run(w.write(), only="score", runs=w.runs), "score: no evaluate stage has this name"),
    (lambda w: tutelage.run(tutelage.load_recipe(w.write()), ["a=1"]), "overrides are for a recipe file"),
    (lambda w: tutelage.plan(w.write(), machine="C64", runs=w.runs), "no machine `C64`"),
    (lambda w: tutelage.plan(w.write(data__train__path="no.jsonl"), runs=w.runs), "no file `no.jsonl`"),
    (lambda w: tutelage.forecast(w.write(), pilot="long"), "pilot: `long` is none of none, short, full"),  # type: ignore[arg-type]
    (lambda w: tutelage.forecast(w.write(), budget=-1), "budget: give a number of at least 0"),
    (lambda w: tutelage.forecast(w.write(), stage="gkf", runs=w.runs), r"`gkf` \(there are: gkd\)"),
    (lambda w: tutelage.evaluate("m"), "nothing to score it on"),
    (lambda w: tutelage.evaluate({"path": "m", "revison": "v2"}, "ifeval"), "unknown key `revison`"),
    (lambda w: tutelage.load_recipe(w.write(), {"training.epoch": 1}), "^overrides: training: unknown key `epoch`"),
    (lambda w: tutelage.evaluate("m", data="no.csv", runs=w.runs), "^data: no file `no.csv`"),
    (lambda w: tutelage.evaluate("m", data=ROWS, prompt=3, runs=w.runs), "^prompt: Input should be"),
    (lambda w: tutelage.evaluate("m", data=ROWS, metrics="rouge", runs=w.runs), r"^metrics \(number 1\): `rouge`"),
    (lambda w: tutelage.evaluate("m", data=[]), "data: there is no row"),
    (lambda w: tutelage.evaluate("m", data=ROWS, promt="x"), "unknown argument `promt`: did you mean `prompt`?"),
    (lambda w: tutelage.evaluate("m", "test", data=ROWS), "give either `data`, or `tasks`"),
    (lambda w: tutelage.evaluate("m", "tst", recipe=w.write()), "recipe `tiny`: no task is called `tst`"),
    (lambda w: tutelage.evaluate("m", "test", prompt="x"), "unknown argument `prompt`: keys of a data section go with"),
    (lambda w: tutelage.evaluate("./no", data=ROWS, runs=w.runs), "model folder no does not exist"),
    (lambda w: tutelage.compare("no", "no"), "no holds no evaluation"),
]


def test_tasks_without_data_are_told_before_the_first_is_answered(workshop: Workshop, done: list[str]) -> None:
    tasks = {"data": "later", "metrics": ["rouge_l"]}
    file = workshop.write(data__later={"path": "no.jsonl"}, tasks__later=tasks)
    with pytest.raises(tutelage.TutelageError, match=r"no file `no\.jsonl`"):
        tutelage.evaluate(workshop.recipe["teacher"], ["test", "later"], recipe=file, runs=workshop.runs)
    assert done == []


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_a_mistake_is_one_line(call: Callable[[Workshop], Any], message: str, workshop: Workshop) -> None:
    with pytest.raises(tutelage.TutelageError, match=message) as error:
        call(workshop)
    assert "\n" not in str(error.value)
