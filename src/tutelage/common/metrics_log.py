"""`metrics.jsonl`: one JSON object per optimizer step (or per block of a synthesis)."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

from tutelage.common.checksums import DamagedError, check_file, read_sealed, seal
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
