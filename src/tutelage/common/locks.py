"""Who works on a run: the content of its lock file, and whether the process that it names lives."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

STALE_SECONDS = 120.0  # another machine's lock is stale when untouched for this long


def own_mark() -> str:
    """What this process writes into a lock file: its id, start time and machine."""
    return f"{os.getpid()} {_start_time(os.getpid())} {platform.node()}"


def is_held(path: Path) -> bool:
    """Whether a living process other than this one holds the lock file."""
    try:
        holder, *rest = path.read_text().split() or ["0"]
    except (OSError, ValueError):
        return False
    own = holder == str(os.getpid()) and rest[1:] in ([], [platform.node()])
    return not own and lives(path)


def lives(path: Path) -> bool:
    """Whether the process whose mark is the first line of a file lives: checked by process id and start time on this
    machine; by the file's age on another, where the holder touches it every few seconds."""
    try:
        content = path.read_text(encoding="utf-8").partition("\n")[0].split()
        if len(content) == 3 and content[2] != platform.node():
            return time.time() - path.stat().st_mtime < STALE_SECONDS
        holder = int(content[0]) if content else 0
        if holder <= 0:  # emptied, or damaged: 0 would ask for this process's own group
            return False
        os.kill(holder, 0)
    except PermissionError:  # it lives, and belongs to another user
        return True
    except (OSError, ValueError):
        return False
    return not (len(content) == 3 and content[1] not in ("0", _start_time(holder)))  # else a new process has its id


def _start_time(process: int) -> str:
    """When a process began, in the kernel's ticks; "0" where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def holder(path: Path) -> str:
    """The process whose mark is the first line of a file, in words: its id, since when it runs, and where if that is
    another machine."""
    try:
        words = path.read_text(encoding="utf-8").partition("\n")[0].split()
    except (OSError, ValueError):
        words = []
    if not words:
        return "another process"
    number, began, machine = words if len(words) == 3 else (words[0], "0", platform.node())
    since = _clock(began) if machine == platform.node() else ""
    where = f" on {machine}" if machine != platform.node() else ""
    return f"process {number}{where}" + (f" (since {since})" if since else "")


def _clock(ticks: str) -> str:
    """The time of day of a start that `_start_time` gave, with the date if that is another; "" where it is unknown."""
    try:
        booted = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line[:5] == "btime"
        )
        began = time.localtime(booted + int(ticks) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, StopIteration):
        return ""
    today = began[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%d %b %H:%M", began) if int(ticks) else ""
