"""Times of runs on this machine's CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cost_runs import B1, B8, STAGES, W1, model_of, run_of

from tutelage.recipe.sections import TrainingConfig
from tutelage.runs.cost import cpu
from tutelage.runs.cost.facts import Rows, Shape, facts
from tutelage.runs.kinds import cost_of


class Machine:
    """Two cores of which each thread's product takes 10 ms; of the wall time the threads have `share`, and while they
    wait for each other they compute `idle` of it in vain. Two threads are `gain` times as fast as one."""

    def __init__(self, share: float, idle: float = 0.0, gain: float = 2.0) -> None:
        self.share, self.idle, self.gain = share, idle, gain
        self.threads, self.wall, self.computed = 2, 0.0, 0.0

    def product(self, *_: object) -> None:
        seconds = 0.01 / (self.gain if self.threads == 2 else 1.0)
        # One thread finds a core of its own, also beside another program.
        self.wall += seconds / (self.share if self.threads == 2 else 1.0)
        self.computed += seconds * self.threads * (1.0 + (self.idle if self.threads == 2 else 0.0))

    def measured(self, monkeypatch: pytest.MonkeyPatch) -> cpu.Pace:
        monkeypatch.setattr(torch, "mm", self.product)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        monkeypatch.setattr(torch, "set_num_threads", lambda threads: setattr(self, "threads", threads))
        for clock in ("process_time", "thread_time"):
            monkeypatch.setattr(f"time.{clock}", lambda: self.computed)
        monkeypatch.setattr("time.perf_counter", lambda: self.wall)
        found = cpu.measured_pace.__wrapped__(0.5, 100)
        assert self.threads == 2  # as before
        return found


@pytest.mark.parametrize(("share", "busy"), [(1.0, 1.0), (0.95, 1.0), (0.5, 2.0), (0.2, 5.0)])
@pytest.mark.parametrize("idle", [0.0, 0.6])
def test_the_pace_of_quiet_cores_is_the_same_whatever_else_runs(
    share: float, busy: float, idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = idle if share < 0.9 else 0.0  # threads wait for one that has lost its core
    found = Machine(share, idle).measured(monkeypatch)
    assert found.rate == pytest.approx(2 * 2 * 100**3 / 0.01, rel=0.06)
    assert found.busy == pytest.approx(busy, rel=0.06)


def test_two_threads_of_one_core_are_no_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Machine(1.0, gain=1.2).measured(monkeypatch)
    assert found == cpu.Pace(pytest.approx(1.2 * 2 * 100**3 / 0.01))


def test_busy_cores_are_told_once_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for busy, said in ((1.0, []), (1.2, []), (3.21, ["at this moment work takes 3.2 times as long as on quiet ones"])):
        monkeypatch.setattr(cpu, "measured_pace", lambda busy=busy: cpu.Pace(1e9, busy))
        assert [note.partition("busy: ")[2] for note in cpu.busy_note()] == said


@pytest.mark.parametrize(("training", "steps"), [({}, 50), ({"max_steps": 7}, 7), ({"max_steps": 500}, 500)])
def test_adamw_moves_the_weights_once_per_step(
    training: dict[str, int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("sft", TrainingConfig(batch_size=40, epochs=2, **training), student=B1)  # 1,000 rows
    model = model_of("H100")
    cost = cost_of(run, model)
    assert cost is not None
    cost = replace(cost, flops=0.0, sampled=0.0)
    monkeypatch.setattr(cpu, "_shown_seconds", lambda seconds, *_: 0.01 * seconds)
    seconds = cpu.cpu_seconds(run, cost, model, cpu.Pace(1e18))
    assert seconds == pytest.approx(cpu.START + 1.01 * steps * W1 * cpu.ADAM_BYTES / cpu.BANDWIDTH)


def test_the_loss_passes_over_the_vocabulary_for_each_response_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_shown_seconds", lambda *_: 0.0)
    monkeypatch.setattr(cpu, "ADAM_BYTES", 0)
    for kind, models, work in (
        ("sft", {"student": B1}, cpu.CROSS_ENTROPY),
        ("distill", {"student": B1, "teacher": B8}, cpu.DIVERGENCE),
    ):
        run, model = run_of(kind, TrainingConfig(epochs=2), **models), model_of("H100")
        cost = cost_of(run, model)
        assert cost is not None
        seconds = cpu.cpu_seconds(run, replace(cost, flops=0.0, sampled=0.0, rows=()), model, cpu.Pace(1e12))
        assert seconds == pytest.approx(cpu.START + 2 * 1000 * 100 * 128_256 * work / 1e12)  # 100 of 300 tokens each


def test_a_batch_is_decoded_until_its_longest_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 steps of 20 own answers, half of them of 30 tokens and half of 10: nearly always one of 30 among 20."""
    stage = STAGES["distill"].model_copy(update={"data": "rows"})
    run = run_of("distill", TrainingConfig(batch_size=40, epochs=1), stage, student=B1, teacher=B8)
    model = model_of("H100")
    seconds = []
    for answers in ((), (30.0, 10.0)):
        monkeypatch.setattr(model, "rows", lambda *_, answers=answers: Rows(1000, 300, 20, answers))
        cost = cost_of(run, model)
        assert cost is not None
        assert cost.sampled == 1000 * 0.5 * 20
        seconds.append(cpu.cpu_seconds(run, replace(cost, flops=0.0, rows=(20,)), model, cpu.Pace(1e18)))
    weights = 4 * (W1 + 128_256 * 2048)  # the head's are read twice for several rows
    assert seconds[1] - seconds[0] == pytest.approx(25 * 10 * weights / cpu.BANDWIDTH, rel=1e-4)


def test_answers_that_are_shown_take_their_time() -> None:
    """One at the end, and one whenever 30 times as long as one takes has passed."""
    shape = Shape(**facts()["models"][B1])
    one = 40 * 4 * W1 / cpu.BANDWIDTH
    shown = [cpu._shown_seconds(seconds, shape, Rows(9, 60, 40), cpu.Pace(1e18)) for seconds in (0, 31 * one, 61 * one)]
    assert shown == [pytest.approx(count * one, rel=1e-6) for count in (1, 2, 3)]
    long = cpu._shown_seconds(0, shape, Rows(9, 600, 500), cpu.Pace(1e18))
    assert long == pytest.approx(48 * 4 * W1 / cpu.BANDWIDTH)  # no more tokens are shown
