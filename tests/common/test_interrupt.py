"""Asked to stop, a study saves what it is training and ends, however many of its workers have nothing to do."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import forked_workers
import pytest
from recipes_fixture import Workshop
from tiny_study import TEMPLATE, write_study
from waiting import HANG, wait_for

from tutelage.common import interrupt
from tutelage.common.interrupt import Interrupted, asked_to_stop, stop_requests
from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.worker import attempt, begin_worker, work

pytestmark = pytest.mark.slow

TRAININGS, IDLE = 2, 2  # two trainings without an end; two evaluations that are soon done


def metrics(runs: Path) -> list[Path]:
    return [file for file in runs.glob("*/metrics.jsonl") if file.read_text().count("\n") > 3]


def test_control_c_saves_every_training_and_leaves_nobody_waiting(workshop: Workshop, python: str):
    template = copy.deepcopy(TEMPLATE)
    template["training"] |= {"epochs": 100_000, "checkpoint_every": 1_000_000}
    grid = {"template": "template.yaml", "sizes": [8], "students": ["small"], "teachers": ["large"]}
    grid |= {"methods": {"base": "base", "start": "teacher", "teacher": "teacher_sft", "sft": "sft"}, "tasks": ["test"]}
    file = write_study(workshop, template=template, grids=[grid])
    process = workshop.folder / "process"
    command = [python, forked_workers.__file__, str(process), "study", "run", str(file), "--runs", str(workshop.runs)]
    driver = subprocess.Popen(
        [*command, "--jobs", "4"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def begun() -> bool:
        counts = len(metrics(workshop.runs)), len(list(workshop.runs.glob("*/result.json")))
        return counts == (TRAININGS, IDLE) or driver.poll() is not None

    try:
        wait_for(begun, "two trainings and two results")
        assert driver.poll() is None
        os.killpg(int(process.read_text()), signal.SIGINT)  # as a terminal does: the driver and its workers
        said = driver.communicate(timeout=HANG)[0]
    finally:
        if driver.poll() is None:
            os.killpg(int(process.read_text()), signal.SIGUSR1)  # each writes where it stands
            time.sleep(2.0)
            driver.kill()  # and so all of them
            print(driver.communicate()[0])
    assert "stopped; the same command goes on" in said
    assert len(metrics(workshop.runs)) == TRAININGS
    for log in metrics(workshop.runs):
        steps = log.read_text().count("\n")
        assert [one.name for one in (log.parent / "checkpoints").iterdir()] == [f"checkpoint-{steps:08d}"]


def test_asked_in_the_last_step_a_run_ends_done_and_the_next_does_not_begin(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    from tutelage.training.trainer import Trainer

    run = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs).stage_run("sft", 0)
    step = Trainer.step

    def asked_at_the_end(self: Trainer, number: int) -> dict[str, Any]:
        metrics = step(self, number)
        if number + 1 == self.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    with monkeypatch.context() as asked:
        asked.setattr(Trainer, "step", asked_at_the_end)
        with pytest.raises(Interrupted, match=r"^stopped after sft; the same command goes on"):
            attempt(run)
    assert run.done
    assert attempt(run) is None


def test_a_nested_stop_requests_shares_the_outer_list():
    with stop_requests() as outer:
        with stop_requests() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer == inner == [signal.SIGTERM]
    assert asked_to_stop()
    with stop_requests() as later:
        assert not later
    assert not asked_to_stop()


def test_a_request_is_answered_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    for terminal in (True, False):
        monkeypatch.setattr("os.isatty", lambda _, terminal=terminal: terminal)
        with stop_requests():
            os.kill(os.getpid(), signal.SIGTERM)
        assert ("stopping when the step is done and saved" in capfd.readouterr().err) is terminal


@pytest.mark.parametrize("outcome", [None, "sft: no space left", RuntimeError("with --debug")])
def test_a_training_that_fails_when_it_is_asked_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str | Exception | None
):
    """The other worker is ended while it waits, and the lock of the tasks with it."""

    def asked(training: Path) -> str | None:
        with stop_requests() as stop:
            training.touch()
            wait_for(lambda: stop, "SIGTERM")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("tutelage.runs.worker.attempt", asked)
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"), begin_worker, (os.getpid(),))
    training, left = tmp_path / "training", []

    def end_those_left() -> None:
        left.extend(one.pid for one in workers if one.is_alive())
        for one in workers:
            one.kill()

    scheduler = Scheduler(Resources(2), pool=pool)
    pool.submit(work, training)
    pool.submit(int).result()  # the other worker has begun
    wait_for(training.exists, "the training")
    workers = list(pool._processes.values())
    hang = threading.Timer(20, end_those_left)
    hang.start()
    scheduler.__exit__(KeyboardInterrupt)
    hang.cancel()
    assert not left


def test_a_forked_worker_that_waits_ends_without_a_word(monkeypatch: pytest.MonkeyPatch):
    """The pool ends its workers by SIGTERM; the command's own answer to it, which a fork inherits, is an exception: a
    traceback, and at times the end of a worker that has just taken the lock of the tasks, for which the others wait."""
    monkeypatch.setattr(interrupt, "_is_worker", False)
    control_c = signal.getsignal(signal.SIGINT)
    with interrupt.sigterm_as_ctrl_c():
        assert callable(signal.getsignal(signal.SIGTERM))
        interrupt.become_worker()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGINT, control_c)
