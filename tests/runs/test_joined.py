"""A recipe as ranks that torchrun started: the weights of one rank, on one host and on two; killed, and gone on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import finished, start, start_by_srun
from ranks_recipe import GKD
from recipes_fixture import Workshop
from safetensors.torch import load_file
from waiting import wait_for

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.common.run_folder import LOCK
from tutelage.recipe.load import load_recipe
from tutelage.runs.hosts.joined import alone, rank_variables, ranks_of_this_command
from tutelage.runs.ranks import Share, do_in_processes
from tutelage.runs.run_recipe import run_recipe

SRUN = {
    "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[007-008]", "SLURM_JOB_ID": "123456",
}  # fmt: skip


def test_the_variables_of_torchrun_and_of_srun():
    assert rank_variables({}) is None
    assert rank_variables({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}) is None  # the script of a batch job
    assert rank_variables({"WORLD_SIZE": "1", "RANK": "0"}) is None
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    torchrun = dict(zip(names, ("3", "1", "4", "2", "h", "29500"), strict=True))
    assert rank_variables({**torchrun, **SRUN, "HOME": "/"}) == torchrun
    assert rank_variables(SRUN) == dict(zip(names, ("9", "1", "16", "8", "gpu007", "23456"), strict=True))
    assert (rank_variables(SRUN | {"SLURM_STEP_NODELIST": "a-1,a-2", "MASTER_PORT": "7"}) or {})["MASTER_PORT"] == "7"
    assert (rank_variables(SRUN | {"SLURM_STEP_NODELIST": "a-1,a-2"}) or {})["MASTER_ADDR"] == "a-1"
    with pytest.raises(TutelageError, match="one of 4 ranks, and LOCAL_RANK is not set"):
        rank_variables({"RANK": "0", "WORLD_SIZE": "4"})
    assert alone(torchrun | {"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "HOME": "/"}) == {"HOME": "/"}


def test_alone_the_command_is_its_own(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with ranks_of_this_command(4, 2, "ray") as first:
        assert first


def recipe_of(workshop: Workshop, **training: Any) -> Path:
    """Teacher SFT, GKD that shards, and an evaluation, in the same command."""
    gkd = GKD | {"teacher": "taught", "training": GKD["training"] | {"max_steps": 5, "checkpoint_every": 2} | training}
    taught = {"name": "taught", "kind": "sft", "student": "teacher", "data": "train", "training": {"max_steps": 2}}
    scores = {"name": "scores", "kind": "evaluate", "models": ["gkd"], "tasks": ["test"]}
    return workshop.write(stages=[taught, gkd | {"student": "base"}, scores])


def outcome(root: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], str]:
    (run,), (scores,) = root.glob("gkd-s0-*"), root.glob("gkd-on-test-s0-*")
    lines = [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(run / "metrics.jsonl")]
    return load_file(run / "model" / "model.safetensors"), lines, (scores / "examples.jsonl").read_text()


def equal(mine: Path, theirs: Path) -> None:
    (weights, lines, replies), (other, others, asked) = outcome(mine), outcome(theirs)
    for name, value in other.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-5)
    for line, expected in zip(lines, others, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert replies == asked


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the warm Python forks")
def test_two_and_four_ranks_of_torchrun_end_as_one(workshop: Workshop, python: str, monkeypatch: pytest.MonkeyPatch):
    file = recipe_of(workshop)
    run_recipe(load_recipe(file), workshop.folder, workshop.folder / "alone")
    command = ["run", str(file), "--runs"]
    # Two ranks share on one host. Four on two hosts share within each (HSDP).
    two = start([*command, str(workshop.folder / "two"), "stages.gkd.training.shard=true"], 2, python)
    codes, printed = finished(two)
    assert codes == [0], printed
    equal(workshop.folder / "two", workshop.folder / "alone")
    four = start([*command, str(workshop.folder / "four"), "stages.gkd.training.shard=host"], 4, python, hosts=2)
    codes, printed = finished(four)
    assert codes == [0, 0], printed
    equal(workshop.folder / "four", workshop.folder / "alone")
    srun = start_by_srun([*command, str(workshop.folder / "srun"), "stages.gkd.training.shard=false"], 2, python)
    codes, printed = finished(srun)
    assert codes == [0, 0], printed
    equal(workshop.folder / "srun", workshop.folder / "alone")
    codes, printed = finished(start([*command, str(workshop.folder / "two"), "--jobs", "2"], 2, python))
    assert codes == [1]
    assert "leave --jobs, --gpus-per-run and --executor out" in printed


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the warm Python forks")
def test_a_rank_that_dies_is_started_again(workshop: Workshop, python: str):
    file = recipe_of(workshop)
    run_recipe(load_recipe(file), workshop.folder, workshop.folder / "alone")
    root = workshop.folder / "killed"
    started = start(["run", str(file), "--runs", str(root), "stages.gkd.training.shard=true"], 2, python, restarts=1)

    def steps() -> int:
        return max((len(read_metrics(f)) for f in root.glob("gkd-s0-*/metrics.jsonl")), default=0)

    def kill() -> None:
        wait_for(lambda: steps() > 2, "the third step")
        (lock,) = root.glob(f"gkd-s0-*/{LOCK}")
        os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    codes, printed = finished(started)
    assert codes == [0], printed
    assert "exitcode: -9" in printed
    equal(root, workshop.folder / "alone")


@pytest.mark.long
@pytest.mark.slow
def test_each_host_does_its_part(workshop: Workshop, warm_children: None):
    """`num_machines`: two launchers on one machine, as the tasks of a Ray cluster start them."""
    from launched import free_port
    from ranks_recipe import planned

    changes: dict[str, Any] = {"stages__0__training__max_steps": 4}
    run, single = (planned(workshop, workshop.folder / root, **changes) for root in ("hosts", "single"))
    for one in (run, single):
        one.folder.mkdir(parents=True)
    address, failed = ("127.0.0.1", free_port()), []

    def part(host: int, do: Callable[..., None] = do_in_processes) -> None:
        try:
            do(run, Share(ranks=2, hosts=2, host=host, address=address), run.folder / f"host-{host}.txt")
        except BaseException as error:
            failed.append(error)

    second = threading.Thread(target=part, args=(1,))
    second.start()
    part(0)
    second.join(60)
    assert not failed
    from tutelage.runs.do_run import do_run

    do_run(single)
    mine, theirs = (load_file(one.folder / "model" / "model.safetensors") for one in (run, single))
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-5)
