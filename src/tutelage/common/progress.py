"""Progress of long work: bars in a terminal, else a line from time to time.

A command that does many pieces of work opens a `Whole`; the `Progress` of a piece is then a second bar below it, and
tells the whole how far the piece is. A process draws in one place, so there is at most one whole.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from shutil import get_terminal_size
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import Any, TextIO

from tutelage.common.time_left import TimeLeft, about, duration, elapsed

WIDE = 80  # columns of a terminal from which on there is room for a bar and a note
_INTERVAL = 20.0  # seconds between two lines where there is no terminal
_whole: ContextVar[Whole | None] = ContextVar("whole", default=None)
_told: ContextVar[Path | None] = ContextVar("told", default=None)  # a file with a line for each note of a command


class Whole:
    """Many pieces of work as one: how many are done, and when all will be.

    Where standard error is a terminal and `bars`, there is a bar of the whole with the current piece's bar below it;
    else there are lines: one for each piece that ends, and within a piece one every 20 s. `texts`: whether rows of the
    user's data and what a model answers to them may be shown.
    """

    def __init__(self, title: str, jobs: int = 1, *, bars: bool = True, texts: bool = True) -> None:
        self.title, self.texts, self.left = title, texts, TimeLeft(jobs)
        self.started, self.current = time.monotonic(), ""
        self.screen = _Bars() if bars and in_terminal() else None
        if self.screen is not None:
            self._row = self.screen.add(title, 1.0)

    def begin(self, key: str) -> None:
        """Say that work on a piece begins; what `Progress` counts from here on is part of it."""
        self.current = key
        self.left.begin(key, time.monotonic())

    def end(self, key: str, title: str, note: str = "") -> None:
        """Say that a piece has ended."""
        now = time.monotonic()
        self.left.end(key, now)
        piece = f"{title} took {duration(self.left.taken(key))}{', ' * bool(note)}{note}"
        done, total = self.left.counts
        if self.screen is not None:
            self.say(f"{done}/{total} {piece}")
        elif total > 1:
            self.say(f"{done} of {total} runs done: {piece}" + (f"; {self.text()}" if done < total else ""))
        self.show()

    def advance(self, share: float, before: float = 0.0) -> None:
        """Say how much of the current piece is done (0..1), apart from the share `before` that an earlier call did."""
        if self.current:
            self.left.part(self.current, share, time.monotonic(), before)
        self.show()

    def show(self) -> None:
        """Bring the bar up to date."""
        if self.screen is not None:
            now = time.monotonic()
            past, left = now - self.started, self.left.seconds(now)
            done, total = self.left.counts
            share = past / max(past + left, 1e-3)
            self.screen.update(self._row, share, f"{done} of {total} runs", self.text())

    def text(self) -> str:
        """The time left, for people."""
        return f"{about(self.left.seconds(time.monotonic()))} left"

    def say(self, line: str) -> None:
        """Print a line that stays, above the bars."""
        say(line)


class Progress:
    """One piece of work: a bar in a terminal; in logs at most one line per `interval` seconds.

    `total`: units of work. `done`: units that an earlier call did, which do not count for the speed. `unit`: what is
    counted, in the plural.
    """

    def __init__(self, title: str, total: int, done: int = 0, interval: float = _INTERVAL, unit: str = "") -> None:
        self.title, self.total, self.done, self.done_before = title, total, done, done
        self.interval, self.started, self.unit = interval, time.monotonic(), unit
        self._ended = False  # whether the line that says so is printed
        self.last_printed = self.started  # equal until the first line, so that short work prints nothing
        self.whole = _whole.get()
        self.screen, self._own = None, False
        if self.whole is not None:
            self.screen = self.whole.screen
            self.whole.advance(0.0)
        elif in_terminal():
            self.screen, self._own = _Bars(), True
        if self.screen is not None:
            self._row = self.screen.add(title, total, within=not self._own)
            self._show("")

    def restore(self, count: int) -> None:
        """Set the units that an earlier call did; they do not count for the speed."""
        self.done = self.done_before = count
        self._show("")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done and show `note`."""
        self.done += count
        self._show(note)
        if self.screen is None and self._line_is_due():
            self.last_printed = time.monotonic()
            told = ", ".join(part for part in (f"{self.title}: {self._count()}", note) if part)
            print(f"{told}; {self._left()}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.screen is not None:
            self.screen.remove(self._row)
            if self._own:
                self.screen.stop()

    def _show(self, note: str) -> None:
        if self.whole is not None:
            share = (self.done - self.done_before) / max(1, self.total - self.done_before)
            self.whole.advance(share, self.done_before / max(1, self.total))
        if self.screen is not None:
            self.screen.update(self._row, self.done, self._count(), note, self._left() if self._own else "")

    def _count(self) -> str:
        return f"{self.done} of {self.total} {self.unit}".strip()

    def _left(self) -> str:
        if self.whole is not None:
            return f"{self.whole.text()} in all"
        rate = (self.done - self.done_before) / elapsed(self.started)
        return f"{about((self.total - self.done) / rate)} left" if rate else "time left not known yet"

    def _line_is_due(self) -> bool:
        if self._ended:
            return False
        ended = self.done >= self.total and self.last_printed > self.started
        due = ended or time.monotonic() - self.last_printed >= self.interval
        self._ended = due and self.done >= self.total
        return due


class _Bars:
    """The bars at the bottom of the terminal, one below the other; what is printed meanwhile appears above them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        self.console = Console(stderr=True, highlight=False)
        one_line: Any = {"no_wrap": True, "overflow": "ellipsis"}
        what = TextColumn("{task.description}", markup=False, table_column=Column(**one_line))
        count = TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True))
        note = TextColumn("{task.fields[note]}", markup=False, table_column=Column(**one_line))
        if self.console.width < WIDE:  # a bar and a note would be cut short, the numbers too
            left = TextColumn("{task.fields[left]}", markup=False, table_column=Column(**one_line))
            columns: tuple[Any, ...] = (what, count, left)
        else:
            columns = (what, BarColumn(min(40, self.console.width - 66)), count, note)
        self.wide = self.console.width >= WIDE
        to_terminal = sys.stdout.isatty()  # else what the command prints goes to its own file
        self._bar = Bar(*columns, console=self.console, transient=True, redirect_stdout=to_terminal)
        self._bar.start()

    def add(self, title: str, total: float, within: bool = False) -> Any:
        """Add a bar, with `within` as a part of the one above; returns its row."""
        return self._bar.add_task("  " * within + title, total=total, count="", note="", left="")

    def update(self, row: Any, done: float, count: str, note: str, left: str = "") -> None:
        shown = ", ".join(part for part in (note, left) if part)
        self._bar.update(row, completed=done, count=count, note=shown, left=left or note)

    def remove(self, row: Any) -> None:
        self._bar.remove_task(row)

    def stop(self) -> None:
        self._bar.stop()


def say(line: str) -> None:
    """Print a line about the work, above the bars of a whole if there are any; one that is indented, a sample, is cut
    to the terminal's width. Control characters are left out, with which a model could steer the terminal."""
    text = "".join(one for one in line if one.isprintable())
    whole = _whole.get()
    if whole is not None and whole.screen is not None:
        whole.screen.console.print(text, markup=False, no_wrap=text[:1] == " ", overflow="ellipsis")
    else:
        print(text, flush=True)


def columns_of(file: TextIO) -> int:
    """The width of a terminal; 0 for what is none."""
    return get_terminal_size().columns if file.isatty() else 0


def print_lines(lines: Iterable[str], indent: int = 4, file: TextIO | None = None) -> None:
    """Print lines. One too long for a terminal is broken between words and goes on after `indent` columns, or two more
    than its own; a line that gives a command (→) is left whole, so that it can be copied."""
    to = sys.stdout if file is None else file
    columns = columns_of(to)
    for line in lines:
        own = len(line) - len(line.lstrip())
        after = " " * min(indent if own < indent else own + 2, columns // 2)
        broken = [line]
        if 0 < columns < len(line) and not line.lstrip().startswith("→"):
            broken = wrap(line, columns, subsequent_indent=after, break_long_words=False, break_on_hyphens=False)
        print("\n".join(broken), file=to, flush=True)


def print_note(note: str, file: TextIO | None = None) -> None:
    """Print a note beside the results, by default on standard error."""
    print_lines([f"note: {note}"], 6, sys.stderr if file is None else file)


def tell(note: str, who: str = "", cause: str = "", file: TextIO | None = None) -> None:
    """Print a note on a run's data or models: `who: note`. Within `told_once`, of notes with the same cause (by default
    the note itself) the first alone is printed."""
    if (notes := _told.get()) is not None:
        cause = cause or note
        with notes.open("a+", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            if any(json.loads(line)[0] == cause for line in handle):
                return
            handle.write(json.dumps([cause, note]) + "\n")
    print_lines([f"{who}: {note}" if who else note], file=file)


def cause_of(notice: str) -> str:
    """What a notice has in common with those of other runs: all but its numbers."""
    return re.sub(r"\d[\d.,]*", "#", notice)


def each_cause_once(notices: Iterable[str]) -> list[str]:
    """The first notice of each cause, and of how many more runs it is true."""
    causes: dict[str, list[str]] = {}
    for notice in notices:
        causes.setdefault(cause_of(notice), []).append(notice)
    return [
        first + (f" (as in {len(more)} more run{'s' * (len(more) > 1)})" if more else "")
        for first, *more in causes.values()
    ]


@contextmanager
def told_once() -> Iterator[Path]:
    """Within the block, `tell` prints each note once. Yields the file of the notes, for `tell_with` and `told`."""
    with TemporaryDirectory(prefix="tutelage-") as folder:
        token = _told.set(Path(folder) / "notes")
        try:
            yield Path(folder) / "notes"
        finally:
            _told.reset(token)


def notes_file() -> Path | None:
    """The file of the `told_once` around, if any."""
    return _told.get()


def tell_with(file: Path | None) -> None:
    """In a worker process: what `tell` prints is what the other processes with this file have not said."""
    _told.set(file)


def told(file: Path) -> frozenset[str]:
    """The notes that were printed."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return frozenset(json.loads(line)[1] for line in lines)


def current_whole() -> Whole | None:
    """The whole that this process works on, if any."""
    return _whole.get()


def in_terminal() -> bool:
    """Whether standard error is a terminal in which lines can be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(title: str, total: int, done: int = 0, unit: str = "") -> Iterator[Progress]:
    """A `Progress` that is closed at the end of the block."""
    bar = Progress(title, total, done, unit=unit)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def whole(title: str, jobs: int = 1, *, bars: bool = True, texts: bool = True) -> Iterator[Whole]:
    """A `Whole` that the block's work is part of."""
    work = Whole(title, jobs, bars=bars, texts=texts)
    token = _whole.set(work)
    try:
        yield work
    finally:
        _whole.reset(token)
        if work.screen is not None:
            work.screen.stop()


def print_anything() -> None:
    """Let standard output and error write what their encoding has not (as `LANG=C` may set it) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
