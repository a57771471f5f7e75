"""What a run says of itself: a progress line in the terminal, and one JSON object a step in `metrics.jsonl`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """A bar with ETA in a terminal; elsewhere (logs, workers) a line now and then."""

    def __init__(self, title: str, total: int, done: int = 0, every: float = 20.0) -> None:
        self.title, self.total, self.done, self.start_done = title, total, done, done
        self.every, self.started = every, time.monotonic()
        self.spoken = self.started  # equal until the first line, so that what is done at once stays quiet
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def restore(self, count: int) -> None:
        """What an earlier call has done, which says nothing about the time left."""
        self.done = self.start_done = count
        if self._bar is not None:
            self._bar.reset(self._task, completed=count)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self.spoken >= self.every or (self.done >= self.total and self.spoken > self.started):
            self.spoken = time.monotonic()
            rate = (self.done - self.start_done) / max(1e-9, self.spoken - self.started)
            left = f"about {(self.total - self.done) / rate:.0f} s left" if rate else "time left not known yet"
            print(f"{self.title}: {self.done}/{self.total} {note} {left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    bar = Progress(title, total, done)
    try:
        yield bar
    finally:
        bar.close()
