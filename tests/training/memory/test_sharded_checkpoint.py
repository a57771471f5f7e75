"""Checkpoints of sharded models: written by two ranks in the background, read on one, two and four."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from two_ranks import DEVICE, ROUNDING, become, on_ranks, saved

from tutelage.common.errors import TutelageError
from tutelage.models.sharding import plain_copy, shard
from tutelage.training.checkpoint import latest_checkpoint
from tutelage.training.job import Job
from tutelage.training.sharded_checkpoint import damaged_shard
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.long

# 97 rows of the embedding do not divide by two or four; a bias-free model of two layers has 21 weights.
OPTIONS: dict[str, Any] = {"max_steps": 4, "batch_size": 5, "epochs": 4, "adam_eps": 1e-3, "precision": "float32"}
OPTIONS |= {"checkpoint_every": 2, "lengths": (9, 6, 60, 7, 30)}


# By folder. Moments are in eight bits where a rank's share has 4,096 numbers in whole blocks of 256: of 49 and 48 rows
# of the embedding, the second rank's alone.
OPTIMIZERS = {"offload": "adamw_offload", "eight": "adamw_8bit"}
KINDS = ["offload", pytest.param("eight", marks=pytest.mark.skipif(not find_spec("torchao"), reason="needs torchao"))]


def make(folder: Path, sharded: bool) -> Job:
    folder.mkdir(exist_ok=True)
    kind = folder.name.split("-")[0]
    student = tiny.llama(hidden=128) if kind == "eight" else tiny.llama()
    if sharded:
        from accelerate import PartialState

        PartialState(cpu=DEVICE == "cpu")
        shard(student, DEVICE)
    return jobs.sft(folder, model=student, **OPTIONS, optimizer=OPTIMIZERS.get(kind, "adamw"))


def weights(job: Job) -> dict[str, torch.Tensor]:
    return plain_copy(job.student.model, device="cpu").state_dict()


def broken_in_step_4(folder: Path, sharded: bool = True) -> Trainer:
    """A run that is interrupted in its fourth step; its last checkpoint is from the second."""
    trainer = Trainer(make(folder, sharded))
    step = trainer.step

    def breaking(number: int) -> dict[str, Any]:
        if number == 3:
            trainer._finish_saving()  # a kill while it is written leaves none: see the test of that
            raise KeyboardInterrupt
        return step(number)

    trainer.step = breaking
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    return trainer


def two(rank: int, port: int, folder: Path) -> None:
    become(rank, port)
    broken_in_step_4(folder / "run")
    for kind in [kind for kind in OPTIMIZERS if (folder / f"{kind}-whole").is_dir()]:
        broken_in_step_4(folder / kind)
        if rank == 0:
            shutil.copytree(folder / kind, folder / f"{kind}-two")
        torch.distributed.barrier()
        go_on(rank, folder / f"{kind}-two")
        go_on(rank, folder / f"{kind}-whole")
    torch.distributed.barrier()
    if rank == 0:
        for name in ("one", "four", "two"):
            shutil.copytree(folder / "run", folder / name)
    torch.distributed.barrier()
    go_on(rank, folder / "two")
    fail(rank, folder / "full")
    torch.distributed.destroy_process_group()


def four(rank: int, port: int, folder: Path) -> None:
    become(rank, port, 4)
    go_on(rank, folder / "four")
    torch.distributed.destroy_process_group()


def go_on(rank: int, folder: Path) -> None:
    job = make(folder, True)
    Trainer(job).run()
    found = weights(job)
    if rank == 0:
        torch.save(found, folder / "weights.pt")


def fail(rank: int, folder: Path) -> None:
    """No room; a rank that cannot write; a writer that is not waited for: none of them leaves a checkpoint."""
    trainer = Trainer(make(folder, True))
    trainer.step(0)
    place = folder / "checkpoints"
    real = shutil.disk_usage
    shutil.disk_usage = lambda _: namedtuple("Usage", "total used free")(10**9, 0, 10)
    with pytest.raises(TutelageError, match=r"no room for a checkpoint|another rank could not"):
        trainer._save(1)
    shutil.disk_usage = real
    import tutelage.training.sharded_checkpoint as module

    def refused(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    hashed, module.hash_file = module.hash_file, refused if rank == 1 else module.hash_file
    trainer._save(1)
    with pytest.raises(TutelageError, match=r"no space is left|another rank could not"):
        trainer._finish_saving()
    module.hash_file = hashed
    torch.distributed.barrier()
    assert not [*place.glob("*checkpoint*")]
    torch.distributed.barrier()  # before a rank begins the next
    trainer._save(1)
    torch.distributed.barrier()
    assert latest_checkpoint(place, "one", trainer._any_rank, rank, 2) is None  # it has not its name yet
    trainer._finish_saving()
    assert latest_checkpoint(place, "one", trainer._any_rank, rank, 2) == (place / "checkpoint-00000001", 1)
    torch.distributed.barrier()
    for name in ("shard", "files"):  # one flipped bit in the second rank's file, which one rank reads
        (file,) = place.glob(f"*/{name}-*1*json" if name == "files" else f"*/{name}-00002-*")
        content = file.read_bytes()
        torch.distributed.barrier()
        if rank == 0:
            file.write_bytes(bytes([*content[:60], content[60] ^ 4, *content[61:]]))
        torch.distributed.barrier()
        assert latest_checkpoint(place, "one", trainer._any_rank, rank, 2) is None
        assert damaged_shard(file.parent) == file.name
        torch.distributed.barrier()
        if rank == 0:
            file.write_bytes(content)
        torch.distributed.barrier()
    assert damaged_shard(place / "checkpoint-00000001") is None


@pytest.fixture(scope="module")
def folder(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("ranks")
    for kind in OPTIMIZERS if find_spec("torchao") else ["offload"]:
        broken_in_step_4(made / f"{kind}-whole", sharded=False)
    on_ranks(python, made, two, 2)
    on_ranks(python, made, four, 4)
    return made


def test_two_ranks_write_their_shares_and_no_rank_all(folder: Path):
    (found,) = (folder / "run" / "checkpoints").glob("checkpoint-*")
    files = sorted(file.name for file in found.iterdir())
    assert [name for name in files if name.endswith("safetensors")] == [
        f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)
    ]
    assert {"files-0.json", "files-1.json", "metrics.jsonl", "step.json"} < {*files}
    sizes = [file.stat().st_size for file in found.glob("*.safetensors")]
    assert max(sizes) < 1.3 * min(sizes)
    assert json.loads((found / "step.json").read_text())["step"] == 2


@pytest.mark.parametrize("ranks", ["one", "two", "four"])
def test_it_goes_on_with_any_number_of_ranks(folder: Path, ranks: str, tmp_path: Path):
    got, expected, start = ends(folder / ranks, tmp_path / "run", ranks == "one")
    assert max(float((got[key] - expected[key]).abs().max()) for key in got) <= ROUNDING
    assert max(float((got[key] - start[key]).abs().max()) for key in got) > 20 * ROUNDING


@pytest.mark.parametrize("ranks", ["", "-two", "-whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_so_do_moments_elsewhere(folder: Path, kind: str, ranks: str, tmp_path: Path):
    """From two ranks to one and to two, and from one to two. Eight bits are rounded anew by each reader."""
    got, expected, start = (
        torch.cat([one[key].flatten() for key in sorted(one)])
        for one in ends(folder / f"{kind}{ranks}", tmp_path / kind, not ranks)
    )
    assert float((got - expected).norm()) < (0.01 if kind == "eight" else 1e-3) * float((expected - start).norm())


def ends(folder: Path, unbroken: Path, alone: bool) -> list[dict[str, torch.Tensor]]:
    """Weights of a run that goes on in a folder (`alone`: here, else it did), of the unbroken one, and at the start."""
    expected, job = make(unbroken, False), make(folder, False)
    start = weights(job)
    for one in [expected, *[job] * alone]:
        Trainer(one).run()
    got = weights(job) if alone else saved(folder / "weights.pt")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert got.keys() == start.keys()
    return [got, weights(expected), start]
