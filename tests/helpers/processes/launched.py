"""A command of this project as ranks that torchrun starts, all on this machine, which may count as several hosts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    command: list[str], ranks: int, python: str, hosts: int = 1, restarts: int = 0
) -> list[subprocess.Popen[str]]:
    """One torchrun per host, each with its part of the ranks, which run `python -m tutelage COMMAND`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHON_EXEC": python}  # with which torchrun starts ranks
    port, started = free_port(), []
    for _ in range(hosts):
        options = [f"--nnodes={hosts}", f"--nproc-per-node={ranks // hosts}", f"--max-restarts={restarts}"]
        options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id=test-{port}"]
        words = [python, "-m", "torch.distributed.run", *options, "-m", "tutelage", *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(words, env=environment, start_new_session=True, **pipes))  # type: ignore[call-overload]
    return started


def start_by_srun(command: list[str], ranks: int, python: str) -> list[subprocess.Popen[str]]:
    """The ranks with the variables of srun alone, as on a host of a Slurm job."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    environment |= {"SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_STEP_TASKS_PER_NODE": str(ranks)}
    environment |= {"SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words, pipes = [python, "-m", "tutelage", *command], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return [
        subprocess.Popen(words, env=environment | own, start_new_session=True, text=True, **pipes)  # type: ignore[call-overload]
        for own in ({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(ranks))
    ]


def finished(processes: list[subprocess.Popen[str]], seconds: float = 150) -> tuple[list[int], str]:
    """Exit codes, and all that was printed."""
    printed = "".join(process.communicate(timeout=seconds)[0] for process in processes)
    return [process.returncode for process in processes], printed
