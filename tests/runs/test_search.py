"""A search whose runs are done by hand: which runs are known when, which point is chosen, how many are expected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from recipes_fixture import Workshop

from tutelage.common.errors import TutelageError
from tutelage.recipe.load import load_recipe
from tutelage.runs import scheduler
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, with_parents
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.search import Search, evaluations

pytestmark = pytest.mark.slow

STAGES: list[dict[str, Any]] = [
    {"name": "teacher_sft", "kind": "sft", "student": "teacher", "data": "train", "shared": True, "search": True},
    {"name": "sft", "kind": "sft", "data": "train", "search": True},
    {"name": "plain", "kind": "sft", "data": "train"},
    {"name": "gkd", "kind": "distill", "teacher": "teacher_sft", "student": "sft", "data": "train", "search": True},
    {"name": "more", "kind": "sft", "student": "gkd", "data": "train", "epochs_of": ["sft"]},
    {"name": "scores", "kind": "evaluate", "models": ["base", "plain", "sft", "gkd", "more"], "tasks": ["test"]},
]
RATES = [0.1, 0.2, 0.3]


@pytest.fixture
def search(workshop: Workshop) -> Search:
    changes = {"stages": STAGES, "seeds": [0, 1], "search": {"task": "test", "grid": {"learning_rate": RATES}}}
    return Search(Planner(load_recipe(workshop.write(**changes)), workshop.folder, workshop.runs))


def finish(run: Run, value: float | None = 0.0) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    metrics = {"rouge_l": {"value": value}}
    (run.folder / "result.json").write_text(json.dumps({"metrics": metrics}))


def names(runs: list[Run]) -> set[str]:
    return {run.stage for run in runs}


def test_what_needs_no_search_does_not_wait(search: Search):
    first = names(search.known())
    assert first == {"teacher_sft on test", "sft on test", "plain", "plain on test", "base on test"}
    assert len(search.trials["sft"]) == len(RATES)
    # One of two searches is over: its stage goes on for every seed, what needs both still waits.
    for (_, run), value in zip(search.trials["sft"], (1.0, 3.0, 2.0), strict=True):
        finish(run, value)
    second = search.known()
    assert names(second) == first | {"sft"}
    assert sorted((r.seed, r.training.learning_rate) for r in second if r.stage == "sft" and r.training) == [
        (0, 0.2),
        (1, 0.2),
    ]
    for _, run in search.trials["teacher_sft"]:
        finish(run)
    third = search.known()
    assert names(third) - names(second) == {"teacher_sft", "gkd on test"}
    assert len(search.trials["gkd"]) == len(RATES)
    for _, run in search.trials["gkd"]:
        finish(run)
    assert names(search.known()) - names(third) == {"gkd", "more", "more on test"}
    assert search.open == []
    assert [(p.stage, p.settings["learning_rate"]) for p in search.points if p.chosen] == [
        ("teacher_sft", 0.1),  # of equal points the first
        ("sft", 0.2),
        ("gkd", 0.1),
    ]


def test_trials_without_any_score_choose_nothing(search: Search):
    search.known()
    for (_, run), value in zip(search.trials["sft"], (None, 3.0, None), strict=True):
        finish(run, value)
    search.known()
    assert [p.settings["learning_rate"] for p in search.points if p.chosen and p.stage == "sft"] == [0.2]
    for _, run in search.trials["teacher_sft"]:
        finish(run, None)
    with pytest.raises(
        TutelageError, match="stage `teacher_sft`: every trial of its search is unscored on `test`, so no"
    ):
        search.known()


def test_trials_that_hold_up_more_go_first(search: Search):
    search.known()
    waited = {search.trials[name][0][1].fingerprint: name for name in ("teacher_sft", "sft")}
    counts = {waited[key]: count for key, count in search.waited_for.items() if key in waited}
    assert counts == {"teacher_sft": 2, "sft": 2}  # gkd and more


def test_as_many_runs_as_expected(search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    done: list[str] = []

    def attempt(run: Run, *_: Any) -> None:
        assert all(parent.done for parent in run.parents)
        finish(run, value=len(done) % 3)
        done.append(run.fingerprint)

    monkeypatch.setattr(scheduler, "attempt", attempt)
    expected = len(search.expected())
    Scheduler(Resources()).execute(search.known, expected)
    assert len(done) == len(set(done)) == expected == len(with_parents(search.known()))
    lines = [line for line in capsys.readouterr().out.splitlines() if " runs done" in line]
    assert [line.split(" runs")[0] for line in lines] == [f"{n} of {expected}" for n in range(1, expected + 1)]


def test_what_is_expected_has_the_points_that_are_chosen(search: Search):
    while left := [run for run in search.known() if not run.done]:
        for run in left:
            finish(run, run.training.learning_rate if run.training else 0.0)
        for points in search.trials.values():
            for settings, run in points:
                finish(run, settings["learning_rate"])
    assert {p.settings["learning_rate"] for p in search.points if p.chosen} == {RATES[-1]}
    assert {run.folder for run in search.expected()} == {run.folder for run in with_parents(search.known())}


def test_models_that_are_trained_alike_share_their_evaluations(workshop: Workshop):
    stages = [STAGES[2], {**STAGES[2], "name": "twin"}, {**STAGES[-1], "models": ["plain", "twin", "base"]}]
    planner = Planner(load_recipe(workshop.write(stages=stages, seeds=[0, 1])), workshop.folder, workshop.runs)
    found = evaluations(planner)
    assert [(subject, run.seed) for subject, _, run in found] == [
        *(("plain", 0), ("plain", 1), ("twin", 0), ("twin", 1)),
        ("base", 0),  # shared by all seeds
    ]
    assert len({run.folder for _, _, run in found}) == 3


def test_a_failed_trial_stops_only_what_waits_for_it(search: Search, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []

    def attempt(run: Run, *_: Any) -> str | None:
        if run.stage == "sft" and run.training and run.training.learning_rate == 0.3:
            return "sft: loss is not finite"
        finish(run)
        done.append(run.stage)
        return None

    monkeypatch.setattr(scheduler, "attempt", attempt)
    with pytest.raises(TutelageError, match="sft: loss is not finite"):
        Scheduler(Resources()).execute(search.known, len(search.expected()))
    assert set(done) == {
        "teacher_sft",
        "teacher_sft on test",
        "sft",
        "sft on test",
        "plain",
        "plain on test",
        "base on test",
    }
    assert search.open == ["sft", "gkd"]
