"""The same work on one rank and on two, once for all tests of a file.

Two CPU processes that talk through gloo; on a machine with two GPUs, two GPUs and NCCL.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from waiting import wait_for

DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"
ROUNDING = 1e-5 if DEVICE == "cpu" else 3e-5  # of a float32 weight after a few steps; GPUs add in other orders


RANK = """
import importlib.util, sys
from pathlib import Path
file, name, port, folder, rank = sys.argv[1:]
spec = importlib.util.spec_from_file_location("ranks", file)
module = importlib.util.module_from_spec(spec)
sys.modules["ranks"] = module
spec.loader.exec_module(module)
getattr(module, name)(int(rank), int(port), Path(folder))
"""


def become(rank: int, port: int, ranks: int = 2) -> None:
    """Make this process one of `ranks`, in the environment that accelerate reads."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)


def saved(path: Path) -> dict[str, torch.Tensor]:
    """Weights that any rank has saved."""
    return torch.load(path, weights_only=True, map_location="cpu")


def on_one_and_two(
    python: str, made: pytest.TempPathFactory, alone: Callable[[Path], None], worker: Callable[[int, int, Path], None]
) -> tuple[Path, Path]:
    """The folders that `alone(folder)` here and `worker(rank, port, folder)` in two processes have filled."""
    torch.set_num_threads(1)
    one, two = made.mktemp("one"), made.mktemp("two")
    on_ranks(python, two, worker, 2, lambda: alone(one))
    return one, two


def on_ranks(
    python: str,
    folder: Path,
    worker: Callable[[int, int, Path], None],
    ranks: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Run `worker(rank, port, folder)` in `ranks` processes, and `meanwhile` here; returns when all are done."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-c", RANK, worker.__code__.co_filename, worker.__name__, str(port), str(folder)]
    logs = [folder / f"rank-{rank}.log" for rank in range(ranks)]
    # Beside a single GPU, a barrier of two CPU ranks would name a GPU that is not there.
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if DEVICE == "cpu" else {})
    started = []
    for rank, log in enumerate(logs):
        with log.open("w") as output:
            started.append(subprocess.Popen([*command, str(rank)], env=environment, stdout=output, stderr=output))
    try:
        meanwhile()
        # One that fails leaves the others waiting.
        wait_for(lambda: any(rank.poll() for rank in started) or all(rank.poll() == 0 for rank in started), "all ranks")
        assert [rank.poll() for rank in started] == [0] * ranks, "".join(log.read_text() for log in logs)
    finally:
        for rank in started:
            rank.kill()
            rank.wait()
