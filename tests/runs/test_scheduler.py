"""The order in which runs are started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.common.progress import notes_file, told_once
from tutelage.runs import scheduler
from tutelage.runs.scheduler import Resources, Scheduler


@dataclass
class Piece:
    """The parts of a run that `Scheduler` reads."""

    fingerprint: str
    hours: float
    parents: list[Piece] = field(default_factory=list)
    done: bool = False
    training: None = None
    folder: Path = Path("nowhere")
    kind: str = "sft"
    seed: int = 0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.fingerprint


def order(monkeypatch: pytest.MonkeyPatch, pieces: list[Piece], **options: Any) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(scheduler, "attempt", lambda run, *_: seen.append(run.fingerprint))
    Scheduler(Resources(), **options).execute(pieces)  # type: ignore[arg-type]
    return seen


def test_the_longest_chain_goes_first(monkeypatch: pytest.MonkeyPatch):
    base = Piece("base", 1.0)
    short = [Piece(f"short{i}", 0.1, [base]) for i in range(3)]
    sft = Piece("sft", 0.5, [base])
    gkd = Piece("gkd", 2.0, [sft])
    score = Piece("score", 0.1, [gkd])
    pieces = [*short, score]
    hours = {"hours": lambda run: run.hours}
    assert order(monkeypatch, pieces, **hours)[:3] == ["base", "sft", "gkd"]
    gkd.hours, short[2].hours = 0.1, 9.0
    assert order(monkeypatch, pieces, **hours)[:3] == ["base", "short2", "sft"]


def test_a_recipe_waits_for_a_run_that_another_process_is_working_on(monkeypatch: pytest.MonkeyPatch, capsys):
    """Two terminals with one recipe: each does what the other does not, and neither fails."""
    theirs, ours = Piece("teacher", 2.0), Piece("sft", 1.0)
    gkd = Piece("gkd", 1.0, [theirs, ours])
    tried: list[str] = []

    def attempt(run: Any, *_: Any) -> str | None:
        tried.append(run.stage)
        if run is not theirs or theirs.done:
            return None
        theirs.done = tried.count("teacher") == 2  # the other process ends
        return scheduler.Busy(f"teacher: another process is working on {run.folder}; wait for it, or stop it")

    monkeypatch.setattr(scheduler, "attempt", attempt)
    monkeypatch.setattr(scheduler, "BUSY_SECONDS", 0.01)
    Scheduler(Resources()).execute([gkd])  # type: ignore[arg-type]
    assert tried == ["teacher", "sft", "teacher", "gkd"]
    said = capsys.readouterr()
    assert said.out.count("another process is working on nowhere: waiting for it") == 1
    assert "1 of 3 runs done: sft" in said.out + said.err
    assert "3 of 3 runs done: gkd" in said.out + said.err  # theirs counts too


@pytest.mark.parametrize(("patient", "lines"), [(False, 2), (True, 1)])
def test_each_run_that_a_recipe_waits_for_is_told_and_of_a_study_the_first(
    patient: bool, lines: int, monkeypatch: pytest.MonkeyPatch, capsys
):
    theirs = [Piece("a", 2.0), Piece("b", 1.0)]
    tried: list[str] = []

    def attempt(run: Any, *_: Any) -> str | None:
        tried.append(run.stage)
        over = tried.count(run.stage) == 3
        return None if over else scheduler.Busy(f"{run.stage}: process 7 is working on it; wait for it, or stop it")

    monkeypatch.setattr(scheduler, "attempt", attempt)
    monkeypatch.setattr(scheduler, "BUSY_SECONDS", 0.01)
    Scheduler(Resources(), patient=patient).execute(theirs)  # type: ignore[arg-type]
    assert capsys.readouterr().out.count(": process 7 is working on it: waiting for it") == lines


def test_without_hours_the_chain_of_most_runs(monkeypatch: pytest.MonkeyPatch):
    base = Piece("base", 1.0)
    alone = Piece("alone", 9.0, [base])
    chain = Piece("third", 0.1, [Piece("second", 0.1, [Piece("first", 0.1, [base])])])
    assert order(monkeypatch, [alone, chain])[1] == "first"


def test_what_is_done_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    done = Piece("done", 100.0, done=True)
    pieces = [Piece("a", 0.1, [done]), Piece("b", 1.0)]
    assert order(monkeypatch, pieces, hours=lambda run: run.hours) == ["b", "a"]


def test_the_time_left_follows_from_runs_of_the_same_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """By the mean over all runs the two evaluations would take 200 s more; they take 20."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def attempt(run: Piece, *_: Any) -> None:
        now[0] += 2.0 * run.hours
        run_folder.write_json(run.folder, run_folder.RESULT, run.result)
        run.done = True

    monkeypatch.setattr(scheduler, "attempt", attempt)
    sft = Piece("sft", 50.0, folder=tmp_path / "sft", result={"last": {"loss": 0.12345}})
    gkd = Piece("gkd", 50.0, [sft], folder=tmp_path / "gkd")
    score = {"headline": "rouge_l", "metrics": {"rouge_l": {"value": 77.04, "stderr": None}}}
    scores = [Piece(f"e{i}", 5.0, [gkd], folder=tmp_path / f"e{i}", kind="evaluate", result=score) for i in range(2)]
    Scheduler(Resources(), seconds=lambda run: run.hours).execute([*scores])  # type: ignore[arg-type,attr-defined]
    assert capsys.readouterr().out.splitlines() == [
        "1 of 4 runs done: sft took 1 min 40 s, loss 0.123; about 2 min left",
        "2 of 4 runs done: gkd took 1 min 40 s; about 20 s left",
        "3 of 4 runs done: e0 took 10 s, rouge_l 77.0; a few seconds left",
        "4 of 4 runs done: e1 took 10 s, rouge_l 77.0",
    ]


@pytest.mark.slow
def test_worker_processes_are_dealt_out_among_the_gpus_and_know_the_notes_that_were_printed(warm_children: None):
    assert scheduler._dealt_out(Resources(5, shared_gpus=["3", "5"])) == ["3", "5", "3", "5", "3"]
    with told_once() as notes, scheduler._processes(Resources(1, shared_gpus=["5"])) as pool:
        assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == "5"
        assert pool.submit(notes_file).result() == notes


@pytest.mark.slow
def test_without_gpus_a_worker_sees_what_its_parent_sees(warm_children: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    with scheduler._processes(Resources(1)) as pool:
        assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == "7,8"


def test_a_failure_is_printed_while_other_runs_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The error that is raised at the end says the first one: it is not printed as well just before."""
    bad, worse = Piece("bad", 1.0), Piece("worse", 1.0)
    monkeypatch.setattr(scheduler, "attempt", lambda run, *_: f"{run.stage}: no" if run.stage[0] in "bw" else None)
    after = Piece("after", 1.0, [bad])
    with pytest.raises(TutelageError, match=r"^bad: no$"):
        Scheduler(Resources()).execute([bad, after])  # type: ignore[list-item]
    assert "failed" not in capsys.readouterr().out
    with pytest.raises(TutelageError, match=r"^bad: no$"):
        Scheduler(Resources()).execute([bad, Piece("good", 0.5), worse])  # type: ignore[list-item]
    assert capsys.readouterr().out.count("failed: ") == 2


def test_asked_to_stop_again_workers_are_killed():
    class Worker:
        def __init__(self) -> None:
            self.told: list[str] = []

        def terminate(self) -> None:
            self.told.append("terminate")

        def kill(self) -> None:
            self.told.append("kill")

    class Pool:
        def __init__(self, asked: int) -> None:
            self.asked, self._processes = asked, {1: Worker(), 2: Worker()}

        def shutdown(self, **_: Any) -> None:  # waits for a step and its checkpoint
            if self.asked > 1:
                raise KeyboardInterrupt

    for asked, told in ((1, ["terminate"]), (2, ["terminate", "kill"])):
        pool = Pool(asked)
        with pytest.raises(KeyboardInterrupt), Scheduler(Resources(2), pool=pool):
            raise KeyboardInterrupt
        assert [worker.told for worker in pool._processes.values()] == [told, told]
