"""`metrics.jsonl`: one JSON object per optimizer step (or per block of a synthesis). `samples.jsonl` has the same form:
one object per answer of the student that is kept to be looked at."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from tutelage.common.checksums import DamagedError, check_file, read_sealed, seal, unseal
from tutelage.common.files import write_atomically

# Times and memory: the only keys in which a resumed run differs from an uninterrupted one.
CLOCK_KEYS = ("seconds", "tokens_per_s", "sampled_tokens_per_s", "peak_gib")


class MetricsFile:
    """Appends JSON lines to a file. A run resumed after step `step` keeps the lines up to it and drops the rest."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        whole = takewhile(lambda line: line is not None, read_sealed(path)) if step else ()
        write_atomically(path, "".join(seal(line) for line in whole if line and line["step"] <= step))
        self._file = path.open("a")

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; it is on disk for readers when this returns."""
        self._file.write(seal(values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, none if it does not exist; a last line that is cut is ignored.

    Raises DamagedError, which names the line, for any other that is not as it was written, and for the file of a
    finished run that is not whole.
    """
    check_file(path)
    lines = read_sealed(path)
    whole = [line for line in lines if line is not None]
    if len(whole) < len(lines):
        raise DamagedError(
            f"{path}:{lines.index(None) + 1} is damaged; remove the folder {path.parent}, which the same command then "
            "makes again"
        )
    return whole


class LinesTail:
    """Reads the lines of such a file as they come: each call parses only what was written since the last one."""

    def __init__(self, path: Path) -> None:
        self.path, self.damaged = path, 0  # damaged: lines that are not as they were written, which are left out
        self._file, self._offset = 0, 0  # inode, and bytes read

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the file is another one than before, as when a run was resumed and has dropped lines (then all its
        lines are new), and the new whole lines. A link is not followed: a file that cannot be read has no lines."""
        try:
            if self.path.is_symlink() or not self.path.is_file():
                return False, []
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                replaced = status.st_ino != self._file or status.st_size < self._offset
                if replaced:
                    self._file, self._offset, self.damaged = status.st_ino, 0, 0
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return False, []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows: list[dict[str, Any]] = []
        for line in whole.splitlines():
            try:
                rows.append(unseal(line.decode()))
            except (ValueError, RecursionError):
                self.damaged += 1
        return replaced, rows


def steps_and_eta(lines: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> tuple[int, int, float | None]:
    """Optimizer steps done and in all (0: not known), and the seconds left at the speed of the last 20 lines.

    `training`: the run's settings. A line's `epoch` is its step divided by the steps per epoch.
    """
    if not lines or not isinstance(lines[-1].get("step"), int):
        return 0, 0, None
    done, epoch = lines[-1]["step"], lines[-1].get("epoch")
    per_epoch = round(done / epoch) if epoch else 0
    total = training.get("max_steps") or per_epoch * (training.get("epochs") or 0)
    times = [line["seconds"] for line in lines[-20:] if "seconds" in line]
    return done, total, (total - done) * sum(times) / len(times) if times and total else None
