"""`metrics.jsonl`: one JSON object per optimizer step (or per block of a synthesis)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.common.files import write_atomically

# Times and memory: the only keys in which a resumed run differs from an uninterrupted one.
CLOCK_KEYS = ("seconds", "tokens_per_s", "sampled_tokens_per_s", "peak_gib")


class MetricsFile:
    """Appends JSON lines to a file. A run resumed after step `step` keeps the lines up to it and drops the rest."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step] if step else []
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; it is on disk for readers when this returns."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, none if it does not exist; an incomplete last line is ignored."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
