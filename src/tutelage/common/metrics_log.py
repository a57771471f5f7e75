"""`metrics.jsonl`: one JSON object per step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.common.files import write_atomically

# Readings of the clock: the only keys in which a resumed run differs from an unbroken one.
CLOCK_KEYS = ("seconds", "tokens_per_s", "sampled_tokens_per_s", "peak_gib")


class MetricsFile:
    """Appends JSON lines. Opening it for a run resumed at `step` drops the lines that come after that step."""

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step] if step else []
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a kill cut short is left out."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
