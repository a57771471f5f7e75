"""Two ranks that ask one served teacher train as one rank with a local one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import jobs
import pytest
import tiny
import torch
from teacher_servers import Served
from two_ranks import ROUNDING, become, on_one_and_two, saved

from tutelage.teachers.asked import AskedTeacher
from tutelage.teachers.served import ServedSource
from tutelage.teachers.server import TeacherServer
from tutelage.training.job import Job
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.slow

LENGTHS = (9, 6, 60, 7, 30)
OPTIONS = {"batch_size": 5, "epochs": 3, "max_steps": 3, "adam_eps": 1e-3, "tokens_per_micro_batch": 40}
ADDRESS = "SERVED_TEACHER"


def make(folder: Path) -> Job:
    return jobs.gkd(folder, lengths=LENGTHS, precision="float32", checkpoint_every=100, **OPTIONS)


def alone(folder: Path) -> None:
    job = make(folder)
    Trainer(job).run()
    torch.save(job.student.model.state_dict(), folder / "weights.pt")


def two(rank: int, port: int, folder: Path) -> None:
    become(rank, port)
    source = ServedSource(os.environ[ADDRESS], "tiny", "tiny", "float32", 60.0)
    job = dataclasses.replace(make(folder), teacher=AskedTeacher(source, torch.device("cpu"), 2, 2))
    Trainer(job).run()
    if rank == 0:
        torch.save(job.student.model.state_dict(), folder / "weights.pt")


def test_two_ranks_equal_one(
    python: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(TeacherServer(jobs.loaded(tiny.llama(layers=3, hidden=48, seed=1)), "tiny").app)
    monkeypatch.setenv(ADDRESS, served.url)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    try:
        folders = on_one_and_two(python, tmp_path_factory, alone, two)
    finally:
        served.stop()
    one, other = (saved(folder / "weights.pt") for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=ROUNDING, msg=name)
    assert served.asked > 6
