"""A run's lock file: of several processes one works on a run."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path

from tutelage.runs.run import Run

STALE_SECONDS = 120.0  # a lock of another machine that nobody touched for so long is a dead one's


def lock(run: Run) -> Path | None:
    """Take the run's lock file; None when another living process holds it.

    Looking at an old lock and taking it over happen under the system's own lock on the folder, so that of two drivers
    that find a dead holder one gets it.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "lock"
    descriptor = os.open(run.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and is_held(path):
            return None
        path.write_text(f"{os.getpid()} {_started(os.getpid())} {platform.node()}")
        return path
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether the process that wrote a lock file lives: by its id and start time; on another machine by the file's age,
    since its holder touches it every few seconds."""
    try:
        content = path.read_text().split()
        if len(content) == 3 and content[2] != platform.node():
            return time.time() - path.stat().st_mtime < STALE_SECONDS
        holder = int(content[0]) if content else 0
        os.kill(holder, 0)
    except PermissionError:  # it lives, and is another user's
        return True
    except (OSError, ValueError):
        return False
    if len(content) == 3 and content[1] not in ("0", _started(holder)):
        return False  # the id is a new process's
    return holder != os.getpid()


def _started(process: int) -> str:
    """When a process began, in the kernel's ticks; 0 where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"
