"""Progress of long work: a bar in a terminal, else a line from time to time."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WIDE = 80  # columns of a terminal from which on there is room for a bar and a note


class Progress:
    """A bar with the time left in a terminal; in logs at most one line per `interval` seconds.

    `total`: units of work. `done`: units that an earlier call did, which do not count for the speed.
    """

    def __init__(self, title: str, total: int, done: int = 0, interval: float = 20.0) -> None:
        self.title, self.total, self.done, self.done_before = title, total, done, done
        self.interval, self.started = interval, time.monotonic()
        self.last_printed = self.started  # equal until the first line, so that short work prints nothing
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            console = Console(stderr=True)
            what, count, left = TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("left")
            if console.width < WIDE:  # all columns would be cut short, the numbers too
                columns: tuple[Any, ...] = (what, count, left, TimeRemainingColumn())
            else:
                note = TextColumn("{task.fields[note]}")
                columns = (what, BarColumn(), count, note, TimeElapsedColumn(), left, TimeRemainingColumn())
            self._bar = Bar(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def restore(self, count: int) -> None:
        """Set the units that an earlier call did; they do not count for the speed."""
        self.done = self.done_before = count
        if self._bar is not None:
            self._bar.reset(self._task, completed=count)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done and show `note`."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif self._line_is_due():
            self.last_printed = time.monotonic()
            rate = (self.done - self.done_before) / max(1e-9, self.last_printed - self.started)
            left = f"about {(self.total - self.done) / rate:.0f} s left" if rate else "time left not known yet"
            print(f"{self.title}: {self.done}/{self.total} {note} {left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _line_is_due(self) -> bool:
        ended = self.done >= self.total and self.last_printed > self.started
        return ended or time.monotonic() - self.last_printed >= self.interval


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """A `Progress` that is closed at the end of the block."""
    bar = Progress(title, total, done)
    try:
        yield bar
    finally:
        bar.close()


def print_anything() -> None:
    """Let standard output and error write what their encoding has not (as `LANG=C` may set it) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
