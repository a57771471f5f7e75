"""The same work on one rank and on two: where the results lie, once for all tests of a file.

Two CPU processes that talk through gloo; on a machine with two GPUs, two GPUs and NCCL.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"
ROUNDING = 1e-5 if DEVICE == "cpu" else 3e-5  # of a float32 weight after a few steps; GPUs add in other orders


def become(rank: int, port: int) -> None:
    """Make this process one of the two, in the environment that accelerate reads."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)


def saved(path: Path) -> dict[str, torch.Tensor]:
    """Weights that any rank has saved."""
    return torch.load(path, weights_only=True, map_location="cpu")


def on_one_and_two(
    made: pytest.TempPathFactory, alone: Callable[[Path], None], worker: Callable[[int, int, Path], None]
) -> tuple[Path, Path]:
    """The folders that `alone(folder)` here and `worker(rank, port, folder)` in two processes have filled."""
    torch.set_num_threads(1)
    one, two = made.mktemp("one"), made.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.spawn(worker, (port, two), nprocs=2, join=False)
    alone(one)
    deadline = time.monotonic() + 120
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the ranks wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    return one, two
