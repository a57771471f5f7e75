"""Two ranks against one: the same steps to 1e-5 (on GPUs 3e-5), however unequal the ranks' shares are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import jobs
import pytest
import torch
from two_ranks import DEVICE, ROUNDING, become, on_one_and_two, saved

from tutelage.common.interrupt import Interrupted
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.long

LENGTHS = (9, 6, 60, 7, 30)
# Adam divides by the size of the gradient: near 0, rounding errors would become full steps.
COMMON = {"max_steps": 3, "adam_eps": 1e-3, "checkpoint_every": 100, "precision": "float32"}
CASES = {
    # 5 examples: 3 on one rank, 2 on the other; a budget that makes 2 micro-batches here and 1 there
    "odd batch": {"batch_size": 5, "epochs": 3, "tokens_per_micro_batch": 72},
    "odd batch, one micro-batch per sequence": {"batch_size": 5, "epochs": 3, "tokens_per_micro_batch": 1},
    "sequence": {"batch_size": 5, "epochs": 3, "tokens_per_micro_batch": 40, "reduction": "sequence"},
    "sum": {"batch_size": 5, "epochs": 3, "tokens_per_micro_batch": 40, "reduction": "sum"},
    "one example": {"batch_size": 1, "epochs": 1},  # one rank has no example
    "no student": {"batch_size": 3, "epochs": 3, "on_policy": 0.0},
    "all student": {"batch_size": 3, "epochs": 3, "on_policy": 1.0, "tokens_per_micro_batch": 1},
    "padded": {"batch_size": 3, "epochs": 3, "packed": False, "tokens_per_micro_batch": 30},
    "bfloat16, one example": {"batch_size": 1, "epochs": 1, "precision": "bfloat16"},
    "cross-entropy too": {"batch_size": 5, "epochs": 3, "ce_weight": 0.3, "tokens_per_micro_batch": 70},
    "validation": {"batch_size": 5, "epochs": 3, "evaluate_every": 1},
}


def make(folder: Path, options: dict):
    import dataclasses

    import tiny

    folder.mkdir(exist_ok=True)
    job = jobs.gkd(folder, lengths=LENGTHS, device=DEVICE, **{**COMMON, **options})
    # one held-out example: the second rank has none
    return dataclasses.replace(job, validation=tiny.sequences((20,), seed=5)) if "evaluate_every" in options else job


def run_cases(folder: Path) -> None:
    for name, options in CASES.items():
        job = make(folder / name, options)
        Trainer(job).run()
        if int(os.environ.get("RANK", 0)) == 0:
            torch.save(job.student.model.state_dict(), folder / name / "weights.pt")


def stop_and_go_on(folder: Path, rank: int) -> None:
    """One rank gets a signal in its second step; both save, and both resume."""
    job = make(folder, {"batch_size": 3, "epochs": 3})
    trainer = Trainer(job)
    step = trainer.step

    def asked_to_stop(number: int):
        if number == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(number)

    trainer.step = asked_to_stop
    with pytest.raises(Interrupted, match="stopped after step 2"):
        trainer.run()
    resumed = make(folder, {"batch_size": 3, "epochs": 3})
    Trainer(resumed).run()
    torch.save(resumed.student.model.state_dict(), folder / f"weights-{rank}.pt")


def worker(rank: int, port: int, folder: Path) -> None:
    become(rank, port)
    run_cases(folder)
    stop_and_go_on(folder / "stopped", rank)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folders(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The cases on one rank and on two, run once for all tests of this file."""
    return on_one_and_two(python, tmp_path_factory, run_cases, worker)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_take_the_steps_of_one(folders: tuple[Path, Path], name: str):
    one, two = (saved(folder / name / "weights.pt") for folder in folders)
    limit = ROUNDING if "bfloat16" not in name else 1e-4
    worst = max(float((one[key] - two[key]).abs().max()) for key in one)
    assert one.keys() == two.keys()
    assert worst <= limit
    start = make(folders[0] / "start", CASES[name]).student.model.cpu().state_dict()
    assert max(float((one[key] - start[key]).abs().max()) for key in one) > 20 * limit  # they did change


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_report_the_metrics_of_one(folders: tuple[Path, Path], name: str):
    one, two = (read_metrics(folder / name / "metrics.jsonl") for folder in folders)
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - set(CLOCK_KEYS):
            if a[key] is None:
                assert b[key] is None
                continue
            assert b[key] == pytest.approx(a[key], rel=1e-4 if "bfloat16" not in name else 0.02, abs=1e-6), key


def test_a_request_to_stop_on_one_rank_stops_both_and_the_run_resumes(folders: tuple[Path, Path], tmp_path: Path):
    unbroken = make(tmp_path / "unbroken", {"batch_size": 3, "epochs": 3})
    Trainer(unbroken).run()
    folder = folders[1] / "stopped"
    a, b = (saved(folder / f"weights-{rank}.pt") for rank in (0, 1))
    for key, value in unbroken.student.model.cpu().state_dict().items():
        assert torch.equal(a[key], b[key])
        assert float((a[key] - value).abs().max()) <= ROUNDING
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3]
