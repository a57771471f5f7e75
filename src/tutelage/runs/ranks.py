"""A run in processes of its own: as several ranks through `accelerate launch`, or as one that sees only its own GPUs.

The worker that holds the run's lock starts them, waits, and passes on what they say. Each rank is
`python -m tutelage.runs.one_rank FOLDER`; FOLDER holds the run, each rank's process id and how it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted, stop_requests
from tutelage.runs.run import Run

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Share:
    """What a run gets of the machine."""

    ranks: int = 1
    gpus: tuple[str, ...] = ()  # for CUDA_VISIBLE_DEVICES; empty: whatever its worker sees

    @property
    def apart(self) -> bool:
        """Whether the run needs processes of its own: CUDA does not change its devices once it is in use."""
        return self.ranks > 1 or bool(self.gpus)


def takes_ranks(run: Run) -> bool:
    """Training does; everything else is one process."""
    return run.training is not None


def gpu_ids(wanted: int) -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them. Raises TutelageError if fewer than `wanted`."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    found = (named or [str(number) for number in range(count)])[:count]
    if len(found) < wanted:
        raise TutelageError(f"--gpus-per-run {wanted}: torch sees {len(found)} GPUs here; ask for fewer")
    return found


def do_apart(run: Run, share: Share, log: Path) -> None:
    """Do the run in `share.ranks` processes; their output is added to `log`, and shown where that is not the same.

    Raises TutelageError, one line, when a rank fails or dies, and Interrupted when asked to stop (state is saved then).
    """
    sampling = getattr(run.spec, "sampling", None)
    if share.ranks > 1 and sampling is not None and sampling.backend == "vllm":
        raise TutelageError("sampling.backend: vllm samples in one process: set it to torch, or use --gpus-per-run 1")
    with tempfile.TemporaryDirectory(prefix="tutelage-") as name, stop_requests() as asked:
        folder, told, before = Path(name), False, log.stat().st_size if log.exists() else 0
        (folder / "run.pickle").write_bytes(pickle.dumps((run, os.getpid())))
        with _started(folder, run, share, log) as process:
            while process.poll() is None:
                if asked and not told:
                    told = True
                    _stop(folder, process)
                time.sleep(0.05)
        words = [json.loads(file.read_text()) for file in folder.glob("said-*.json")]
        stopped = next((said["line"] for said in words if said["kind"] == "Interrupted"), None)
        if stopped or (asked and not run.done):
            raise Interrupted(stopped or "stopped; the same command goes on from the last checkpoint")
        if process.returncode or not run.done:
            raise TutelageError(_failure(words, share.ranks, log, before))


def die_with_parent(parent: int, grandparent: int | None = None) -> None:
    """Kill this process when its parent ends, however it ends: nothing is lost by that, and nothing must go on holding
    memory and locks. `parent` must still be alive, or rather `grandparent` where a process stands between."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    found = os.getppid() if grandparent is None else _parent_of(os.getppid())
    if found != (parent if grandparent is None else grandparent):
        os._exit(1)


def _parent_of(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


@contextlib.contextmanager
def _started(folder: Path, run: Run, share: Share, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher, which is killed with its ranks if this process leaves before they are done."""
    environment = dict(os.environ)
    if share.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
    worker = os.getpid()
    process = subprocess.Popen(
        _command(folder, run, share),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C in the terminal is this process's: it asks the ranks to save first
        preexec_fn=lambda: die_with_parent(worker),
    )
    listener = threading.Thread(target=_pass_on, args=(process.stdout, log), daemon=True)
    listener.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        listener.join(timeout=5)


def _command(folder: Path, run: Run, share: Share) -> list[str]:
    program = ["-m", "tutelage.runs.one_rank", str(folder)]
    if share.ranks == 1:
        return [sys.executable, *program]
    import torch

    # Our own file, or accelerate would take the user's. `MULTI_GPU` is its name for `torch.distributed.run`, on CPUs
    # too (its launcher for CPUs starts one process); the trainer says which device it wants.
    config = folder / "accelerate.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: 'no'\n")
    threads = max(1, torch.get_num_threads() // share.ranks)
    options = {"config_file": config, "num_processes": share.ranks, "num_machines": 1, "machine_rank": 0}
    options |= {"main_process_port": 0, "num_cpu_threads_per_process": threads}  # port 0: any that is free
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *given, *program]


def _pass_on(output: Any, log: Path) -> None:
    """What the ranks print goes into the run's log, and to this process's output unless that is the log."""
    with log.open("ab", buffering=0) as handle:
        shown = None if os.path.sameopenfile(handle.fileno(), 1) else sys.stderr
        for line in iter(output.readline, b""):
            handle.write(line)
            if shown is not None:
                with contextlib.suppress(ValueError, OSError):  # closed by now
                    shown.write(line.decode(errors="replace"))


def _stop(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Ask the ranks to save and stop: the trainer finishes its step. Those that do not train yet just end."""
    ranks = [int(file.read_text()) for file in folder.glob("pid-*")]
    for number in ranks or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)


def _failure(words: list[dict[str, Any]], ranks: int, log: Path, before: int) -> str:
    """One line of what went wrong: the first that any rank said, a mistake of the user's before all else.

    A rank that was killed says nothing. The launcher then ends the others, some before they can say anything (on GPUs
    they wait for the dead one and hear nothing, until they are killed half a minute later): its own report, in the log
    after the first `before` bytes, tells which.
    """
    known = next((said["line"] for said in words if said["kind"] == "TutelageError"), None)
    if known is not None:
        return known
    silent = sorted({*range(ranks)} - {said["rank"] for said in words})
    report = log.read_bytes()[before:].decode(errors="replace") if log.exists() else ""
    ended = re.findall(r"\brank\s*: (\d+) .*?\bexitcode\s*: (-?\d+) \(pid: (\d+)\)", report, re.DOTALL)
    if ended:
        forced = re.findall(r"Unable to shutdown process (\d+)", report)
        asked_to = str(-signal.SIGTERM.value)  # by the launcher
        first = {int(rank) for rank, code, process in ended if code != asked_to and process not in forced}
        silent = [rank for rank in silent if rank in first]
    lines = [
        f"rank {said['rank']}: {said['kind']}: {said['line']}" if ranks > 1 else f"{said['kind']}: {said['line']}"
        for said in sorted(words, key=lambda said: said["time"])
        if said["kind"] != "done"
    ][:1]
    if silent:
        names = f"rank {', '.join(map(str, silent))}" if ranks > 1 else "its process"
        lines.append(f"{names} died without a word (killed, perhaps for want of memory)")
    return f"{'; '.join(lines) or 'the launcher failed'} (all that was said: {log})"
