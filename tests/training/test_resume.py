"""A run that was killed or stopped anywhere resumes to the weights of an uninterrupted one, bit for bit.

As a script (`test_resume.py FOLDER WHERE CALL`) this file is the run that is killed.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import torch
from waiting import HANG

from tutelage.common.interrupt import Interrupted
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.common.types import Sample
from tutelage.sampling import engine
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.training import checkpoint
from tutelage.training import on_policy as rollout
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.slow

LENGTHS = (9, 6, 20, 7, 30, 5, 12, 8, 11, 10)
STEPS = 6  # 10 examples in batches of 4, twice; checkpoints after 2 and 4


def make(folder: Path):
    folder.mkdir(exist_ok=True)
    job = jobs.gkd(folder, 0.5, LENGTHS, batch_size=4, epochs=2, checkpoint_every=2, learning_rate=5e-3)
    assert job.rollouts is not None
    return dataclasses.replace(job, seed=9, rollouts=dataclasses.replace(job.rollouts, seed=9))


def clockless(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(folder / "metrics.jsonl")]


class Stopping:
    """Calls `function`; call number `call` (from 1) kills the process."""

    def __init__(self, function, call: int) -> None:
        self.function, self.left = function, call

    def __call__(self, *args, **options):
        self.left -= 1
        if self.left == 0:
            self.before_kill(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(*args, **options)

    def before_kill(self, *args) -> None:
        pass


class StoppingWrite(Stopping):
    """A kill in the middle of writing a file."""

    def before_kill(self, *args) -> None:
        args[1].write_bytes(b"PK half a file")


def main(folder: str, where: str, call: str) -> None:
    torch.set_num_threads(1)
    trainer, n = Trainer(make(Path(folder))), int(call)
    if where == "step":  # after sampling, before training
        trainer._token_weights = Stopping(trainer._token_weights, n)
    elif where == "update":  # just before the weights change
        trainer.optimizer.step = Stopping(trainer.optimizer.step, n)
    elif where == "sampling":
        stopping = Stopping(engine.Engine._draw, n)
        engine.Engine._draw = lambda *args: stopping(*args)  # a function, so that it becomes a method
    elif where == "write":
        torch.save = StoppingWrite(torch.save, n)
    elif where == "rename":  # written, but not renamed
        checkpoint._sync = Stopping(checkpoint._sync, n)
    elif where == "after":  # renamed, with the old one and the pending samples still there
        checkpoint._complete = Stopping(checkpoint._complete, n)
    trainer.run()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[torch.Tensor], list[dict]]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = make(folder)
    Trainer(job).run()
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == list(range(1, STEPS + 1))
    return [p.detach() for p in job.student.model.parameters()], clockless(folder)


def resume(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], list[dict], list[int]]:
    """Run to the end: final weights, metrics, and the number of prompts of each sampler call."""
    calls: list[int] = []
    sample = TorchSampler.sample

    def counted(self, prompts, **options):
        calls.append(len(prompts))
        return sample(self, prompts, **options)

    job = make(folder)
    with monkeypatch.context() as patch:
        patch.setattr(TorchSampler, "sample", counted)
        Trainer(job).run()
    return [p.detach() for p in job.student.model.parameters()], clockless(folder), calls


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# where, at which call, the step of the checkpoint that must exist, and how often the resumed run samples
KILLS = [
    ("step", 1, None, 5),  # in step 1: its samples are there
    ("step", 4, 2, 2),  # in step 4: the samples of steps 3 and 4 are there
    ("update", 6, 4, 0),
    ("sampling", 60, None, None),
    ("write", 2, 2, 2),
    ("rename", 2, 2, 2),
    ("after", 3, 4, 2),
]


@pytest.fixture(scope="module")
def killed(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, tuple[Path, int]]:
    """The killed runs, two at a time: folder and exit status."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    out, running = {}, {}
    for where, call, *_ in KILLS:
        folder = tmp_path_factory.mktemp(where)
        command = [python, __file__, str(folder), where, str(call)]
        running[where, call] = folder, subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        if len(running) == 2 or (where, call) == KILLS[-1][:2]:
            out |= {key: (folder, process.wait(timeout=HANG)) for key, (folder, process) in running.items()}
            running = {}
    return out


@pytest.mark.parametrize(("where", "call", "kept", "samplings"), KILLS)
def test_a_killed_run_resumes_to_the_same_weights(killed, uninterrupted, monkeypatch, where, call, kept, samplings):
    folder, status = killed[where, call]
    assert status == -signal.SIGKILL
    found = checkpoint.latest_checkpoint(folder / "checkpoints", "one")
    if where != "sampling":
        assert (found and found[1]) == kept
    weights, metrics, calls = resume(folder, monkeypatch)
    assert same(weights, uninterrupted[0])
    assert metrics == uninterrupted[1]
    if samplings is not None:
        assert len(calls) == samplings
    assert not list(folder.rglob("*.partial"))
    assert max(p.name for p in (folder / "checkpoints").glob("checkpoint-*")) == "checkpoint-00000004"


def test_every_step_of_this_run_samples(uninterrupted):
    """The numbers in KILLS assume this."""
    assert [line["on_policy"] for line in uninterrupted[1]] == [1 / 4, 2 / 4, 1 / 2, 2 / 4, 3 / 4, 1 / 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_run_asked_to_stop_finishes_its_step_and_saves(tmp_path, uninterrupted, monkeypatch, number, step, capsys):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    trainer = Trainer(make(tmp_path))
    weights_of = trainer._token_weights

    def asked(sequences):
        if len(read_metrics(tmp_path / "metrics.jsonl")) == step:
            os.kill(os.getpid(), number)
        return weights_of(sequences)

    trainer._token_weights = asked
    where = f"after step {step + 1} of {STEPS}"
    with pytest.raises(Interrupted, match=f"stopped {where} of training; the same command goes on"):
        trainer.run()
    capsys.readouterr()
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    assert checkpoint.latest_checkpoint(tmp_path / "checkpoints", "one")[1] == step + 1
    weights, metrics, calls = resume(tmp_path, monkeypatch)
    assert f"training: goes on {where}\n" in capsys.readouterr().out
    assert same(weights, uninterrupted[0])
    assert metrics == uninterrupted[1]
    assert len(calls) == STEPS - step - 1


def test_a_request_in_the_last_step_comes_too_late(tmp_path, uninterrupted, monkeypatch):
    trainer = Trainer(make(tmp_path))
    step_of = trainer.step

    def asked(step):
        metrics = step_of(step)
        if step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    trainer.step = asked
    assert trainer.run()["step"] == STEPS
    # if it is killed before the caller saves the weights, the checkpoint has them, and the last metrics too
    job = make(tmp_path)
    assert Trainer(job).run()["step"] == STEPS
    assert same([p.detach() for p in job.student.model.parameters()], uninterrupted[0])


def test_a_second_signal_has_its_usual_effect(tmp_path):
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        trainer = Trainer(make(tmp_path))
        weights_of = trainer._token_weights

        def asked(sequences):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            return weights_of(sequences)

        trainer._token_weights = asked
        with pytest.raises(Interrupted):
            trainer.run()
        assert received == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_signal_handlers_are_restored_after_an_error(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    trainer = Trainer(make(tmp_path))
    trainer.step = lambda step: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_samples_of_another_step_are_not_used(tmp_path, uninterrupted, monkeypatch):
    """Samples left by a run with other batches have other keys."""
    folder = tmp_path / "checkpoints" / "pending-0"
    samples = [Sample((5, 2), (-1.0, -1.0), True)]
    rollout._write_pending(folder / "00000000.json", [[0, 999]], samples)
    weights, metrics, calls = resume(tmp_path, monkeypatch)
    assert same(weights, uninterrupted[0])
    assert (metrics, len(calls)) == (uninterrupted[1], STEPS)


if __name__ == "__main__":
    main(*sys.argv[1:])
