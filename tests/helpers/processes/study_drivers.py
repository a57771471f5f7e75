"""Drivers of a study that are killed again and again, as a script: `study_drivers.py FOLDER`.

It imports once and forks each of them; FOLDER holds study.yaml and gets their runs and `broken.json`: how they ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tutelage.runs import scheduler as workers
from tutelage.runs.run import Run
from tutelage.study.grid import plan_study
from tutelage.study.run_study import run_study

KILLS = int(os.environ.get("TUTELAGE_KILLS", "10"))


def kill_after(calls: int) -> None:
    """Kill this process after so many calls of Python functions."""

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls -= event == "call"
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def counting(
    log: Path, deaths: Path | None, mid_write: int | None, mid_run: tuple[int, int] | None = None
) -> Callable[..., str | None]:
    """`attempt`, which writes down every run that starts, and whether it was done already. With `mid_write` the first
    process that comes to that atomic write is killed in the middle of it; with `mid_run` = (starts, calls) this process
    is killed so many calls after so many starts. A closure of a script goes to Ray whole."""
    from tutelage.runs.worker import attempt

    begun = 0

    def watched(run: Run, *options: Any) -> str | None:
        stage = import_module("tutelage.runs.do_run")  # the package has a function of this name
        real, replace = getattr(stage.do_run, "real", stage.do_run), getattr(os.replace, "real", os.replace)
        left = [mid_write or 0]

        def noted(run: Run) -> dict[str, Any]:
            nonlocal begun
            with log.open("a") as handle:
                handle.write(f"{run.folder.name} {run.done} {os.getpid()}\n")
            begun += 1
            if mid_run is not None and begun == mid_run[0]:
                kill_after(mid_run[1])
            return real(run)

        def stopping(source: Any, target: Any) -> None:
            left[0] -= 1
            if left[0] == 0 and deaths is not None and not deaths.exists():
                deaths.write_text(str(target))
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        noted.real, stopping.real = real, replace  # type: ignore[attr-defined]
        stage.do_run, os.replace = noted, stopping  # type: ignore[assignment]
        return attempt(run, *options)

    return watched


def fork(
    folder: Path, name: str, mid_write: int | None = None, mid_run: tuple[int, int] | None = None, **options: Any
) -> int:
    """Start a driver for the study in `folder/name`."""
    process = os.fork()
    if process:
        return process
    try:
        deaths = folder / f"{name}-{time.time_ns()}.death"
        watched = counting(folder / f"{name}.log", deaths, mid_write, mid_run)
        workers.attempt = import_module("tutelage.runs.worker").attempt = watched
        run_study(plan_study(folder / "study.yaml", folder / name), **options)
        os._exit(0)
    except BaseException as error:
        print(type(error), error, file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_after(process: int, log: Path, starts: int) -> int:
    """Kill a driver when it has started so many runs, unless it has ended by then."""
    goal = len(log.read_text().splitlines()) + starts if log.exists() else starts
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if log.exists() and len(log.read_text().splitlines()) >= goal:
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.005)
    return ended(process)


def locally(folder: Path) -> dict[str, list[int]]:
    """How drivers ended: an unbroken one, those that were killed and the one after them, two at a time."""
    chance, broken = random.Random(6), []
    ends = [ended(fork(folder, "unbroken"))]
    for number in range(KILLS):
        if number % 3 == 2:  # in a write
            broken.append(ended(fork(folder, "broken", chance.randint(1, 6))))
        else:
            # A training makes some 50,000 calls, an evaluation 34,000.
            broken.append(ended(fork(folder, "broken", mid_run=(chance.randint(1, 2), chance.randint(0, 50_000)))))
    ends.append(ended(fork(folder, "broken")))
    two = [fork(folder, "two") for _ in range(2)]
    return {"broken": broken, "ends": [*ends, *map(ended, two)]}


def on_ray(folder: Path) -> dict[str, list[int]]:
    """The same on a cluster that outlives its drivers. Every third of them, and the last, loses a worker in a write."""
    import ray  # noqa: F401

    chance, broken = random.Random(7), []
    for number in range(KILLS):
        process = fork(folder, "ray", chance.randint(1, 6) if number % 3 == 2 else None, executor="ray")
        broken.append(killed_after(process, folder / "ray.log", chance.randint(1, 3)))
    return {"broken": broken, "ends": [ended(fork(folder, "ray", 1, executor="ray"))]}


def main(folder: Path) -> None:
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    beside = os.fork() if "RAY_ADDRESS" in os.environ else -1
    if not beside:
        (folder / "ray.json").write_text(json.dumps(on_ray(folder)))
        os._exit(0)
    (folder / "broken.json").write_text(json.dumps(locally(folder)))
    assert beside < 0 or ended(beside) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
