"""A run in processes of its own: as several ranks through `accelerate launch`, or as one that sees only its own GPUs.

The worker that holds the run's lock starts them, waits, and passes on their output and errors. Each rank is
`python -m tutelage.runs.one_rank FOLDER`; FOLDER holds the run, each rank's process id, and how each rank ended.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted, stop_requests
from tutelage.recipe.stages import DistillStage, MethodStage
from tutelage.runs.hosts.joined import alone
from tutelage.runs.run import Run, gpus_of

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Share:
    """A run's share of the machine."""

    ranks: int = 1  # on all hosts
    gpus: tuple[str, ...] = ()  # for CUDA_VISIBLE_DEVICES; empty: all that its worker sees
    hosts: int = 1
    host: int = 0  # which of them this is
    address: tuple[str, int] = ("", 0)  # where the ranks meet: of the first host, and a port; 0: any free one

    @property
    def own_ranks(self) -> range:
        """The ranks on this host."""
        each = self.ranks // self.hosts
        return range(self.host * each, (self.host + 1) * each)

    @property
    def needs_processes(self) -> bool:
        """Whether the run needs processes of its own. One rank with GPUs does: CUDA cannot change devices once used."""
        return self.ranks > 1 or bool(self.gpus)


def samples_in_one_process(run: Run) -> bool:
    """Whether it samples through vLLM while it trains, which several ranks cannot."""
    stage = run.config
    return isinstance(stage, DistillStage | MethodStage) and stage.on_policy > 0 and stage.sampling.backend == "vllm"


def gpu_ids(wanted: int) -> list[str]:
    """Ids of this machine's GPUs, as CUDA_VISIBLE_DEVICES names them. Raises TutelageError if fewer than `wanted`, the
    ranks of a training run."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    found = (named or [str(number) for number in range(count)])[:count]
    if len(found) < wanted:
        raise TutelageError(f"--gpus-per-run {wanted}: torch sees {len(found)} GPUs here; ask for fewer")
    return found


def shared_gpus(runs: Sequence[Run], jobs: int) -> list[str]:
    """The GPUs that `jobs` runs at the same time are dealt out among, one each; none where one process does all runs,
    or where a run needs several GPUs: each then sees all of them."""
    return gpu_ids(0) if jobs > 1 and all(gpus_of(run, 1) == 1 for run in runs) else []


def do_in_processes(run: Run, share: Share, log: Path) -> None:
    """Do the run in `share.ranks` processes. Their output is appended to `log`, and shown unless stdout is that file.

    With several hosts, do this host's part: each calls it, with the same run and its own `share.host`. Raises
    TutelageError, one line, when a rank fails or dies, and Interrupted when asked to stop, after saving.
    """
    if share.ranks > 1 and samples_in_one_process(run):
        raise TutelageError("sampling.backend: vllm samples in one process: set it to torch, or use --gpus-per-run 1")
    with tempfile.TemporaryDirectory(prefix="tutelage-") as name, stop_requests() as asked:
        folder, stopping, before = Path(name), False, log.stat().st_size if log.exists() else 0
        (folder / "run.pickle").write_bytes(pickle.dumps((run, os.getpid())))
        with _launched(folder, run, share, log) as process:
            while process.poll() is None:
                if asked and not stopping:
                    stopping = True
                    _ask_to_stop(folder, process)
                time.sleep(0.05)
        reports = [json.loads(file.read_text()) for file in folder.glob("report-*.json")]
        stopped = next((report["line"] for report in reports if report["kind"] == "Interrupted"), None)
        if stopped or (asked and not run.done):
            raise Interrupted(stopped or "stopped; the same command goes on from the last checkpoint")
        if process.returncode or not (run.done or share.host):
            raise TutelageError(_failure(reports, share.own_ranks, log, before))


def die_with_parent(parent: int, grandparent: int | None = None) -> None:
    """Have this process killed when its parent ends in any way, so that it does not go on holding memory and locks.

    `parent`: the expected parent's id; if it is not the parent any more, this process ends now. With `grandparent`, the
    parent is a launcher, and its own parent's id is checked instead. Linux only; elsewhere this does nothing.
    """
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
def _launched(folder: Path, run: Run, share: Share, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the launcher (or the single rank), which is killed with its ranks when the context is left."""
    environment = alone(os.environ)
    if share.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
    worker = os.getpid()
    process = subprocess.Popen(
        _command(folder, run, share),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal reaches this process alone, which asks the ranks to save first
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

    # A config file of this run, or accelerate would read the user's. `MULTI_GPU` makes it start
    # `torch.distributed.run`, on CPUs too (its launcher for CPUs starts one process); the trainer chooses the device.
    config = folder / "accelerate.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: 'no'\n")
    threads = max(1, torch.get_num_threads() // len(share.own_ranks))
    options: dict[str, Any] = {"config_file": config, "num_processes": share.ranks, "num_machines": share.hosts}
    options |= {"machine_rank": share.host, "main_process_port": share.address[1]}
    options |= {"main_process_ip": share.address[0]} if share.address[0] else {}
    options |= {"num_cpu_threads_per_process": threads}
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *given, *program]


def _pass_on(output: Any, log: Path) -> None:
    """Copy the ranks' output to the run's log, and to this process's stderr unless its stdout is the log."""
    with log.open("ab", buffering=0) as handle:
        shown = None if os.path.sameopenfile(handle.fileno(), 1) else sys.stderr
        for line in iter(output.readline, b""):
            handle.write(line)
            if shown is not None:
                with contextlib.suppress(ValueError, OSError):  # stderr is closed
                    shown.write(line.decode(errors="replace"))


def _ask_to_stop(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Ask the ranks to finish their step, save and stop. Ranks that do not train yet end at once."""
    ranks = [int(file.read_text()) for file in folder.glob("pid-*")]
    for number in ranks or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)


def _failure(reports: list[dict[str, Any]], ranks: range, log: Path, before: int) -> str:
    """One line that says what failed: the user's mistake if a rank reports one, else the first error and the ranks that
    died.

    A rank that was killed reports nothing. The launcher then ends the others, some before they can report (on GPUs they
    wait for the dead one until they are killed half a minute later). Its own summary, in the log after the first
    `before` bytes, tells which ranks died first.
    """
    mistake = next((report["line"] for report in reports if report["kind"] == "TutelageError"), None)
    if mistake is not None:
        return mistake
    silent = sorted({*ranks} - {report["rank"] for report in reports})
    output = log.read_bytes()[before:].decode(errors="replace") if log.exists() else ""
    ended = re.findall(r"\brank\s*: (\d+) .*?\bexitcode\s*: (-?\d+) \(pid: (\d+)\)", output, re.DOTALL)
    if ended:
        forced = re.findall(r"Unable to shutdown process (\d+)", output)
        by_launcher = str(-signal.SIGTERM.value)
        first = {int(rank) for rank, code, process in ended if code != by_launcher and process not in forced}
        silent = [rank for rank in silent if rank in first]
    errors = sorted((report for report in reports if report["kind"] != "done"), key=lambda report: report["time"])
    lines = [
        f"rank {report['rank']}: {report['kind']}: {report['line']}"
        if len(ranks) > 1
        else f"{report['kind']}: {report['line']}"
        for report in errors[:1]
    ]
    if silent:
        names = f"rank {', '.join(map(str, silent))}" if len(ranks) > 1 else "its process"
        lines.append(f"{names} died without an error message (killed, perhaps out of memory)")
    return f"{'; '.join(lines) or 'the launcher failed'} (whole output: {log})"
