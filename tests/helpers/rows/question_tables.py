"""Tables of questions and answers for tests of `tutelage init`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

PAIRS = [(f"Where is room {i}, floor {i % 7}?", f"Room {i} is on floor {i % 7}.") for i in range(60)]


class Typed(io.StringIO):
    """Lines that somebody types; then the input ends."""

    def isatty(self) -> bool:
        return True


def table(path: Path, header: tuple[str, ...] = ("question", "answer"), rows: list[Any] = PAIRS) -> None:
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
