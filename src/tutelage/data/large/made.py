"""Token sequences of a whole section: here and in memory, or of large data by several processes, kept in files.

The processes are started as programs of their own (`worker.py`). A fork of this process would copy its locks and its
CUDA context, and `multiprocessing`'s other ways import the user's script anew.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Queue
from typing import Any, Protocol, TypeVar

from tutelage.common.errors import TutelageError
from tutelage.common.types import TokenSequence
from tutelage.data.large import kept
from tutelage.data.large.stored import StoredSequences

T = TypeVar("T")
_CALL = 500  # rows done at a time where that is here
_PART = 5_000  # rows that a process does at a time
_MOST = 16  # processes
_QUIET = 5_000  # fewer rows take a second or two


class Work(Protocol):
    """What is done with the rows of a section; with large data, it is pickled."""

    def part(self, start: int, stop: int) -> tuple[list[TokenSequence], dict[str, Any]]:
        """The sequences of the rows from `start` to before `stop`, and a JSON object about them."""
        ...


def made(work: Work, rows: int, name: str, key: str) -> tuple[Sequence[TokenSequence], list[dict[str, Any]]]:
    """The sequences of all rows, and what each part says of itself.

    `name`: a hash of all that decides the result; with it, the sequences are kept in files, and found there by the next
    who ask. Without, they are in memory. `key`: the data section, for messages.
    """
    if not name:
        out: list[TokenSequence] = []
        parts = []
        for start, stop in _shown(_ranges(rows, _CALL), quiet=rows < _QUIET):
            found, about = work.part(start, stop)
            out += found
            parts.append(about)
        return out, parts

    def write(folder: Path) -> dict[str, Any]:
        return {"parts": _by_processes(work, _ranges(rows, _PART), folder)}

    name = f"tokens-{name}-{kept.code_version()}"
    stored = StoredSequences(kept.find(name) or kept.make(name, key, write))
    return stored, stored.reports


def processes() -> int:
    """How many processes encode large data: one per core that this process may use."""
    return min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _by_processes(work: Work, ranges: list[tuple[int, int]], folder: Path) -> list[dict[str, Any]]:
    """Have the work done, in files of the folder; returns what each part says of itself, in order."""
    pickled, idle = pickle.dumps(work), Queue[_Worker]()

    def part(start_stop: tuple[int, int]) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.part(*start_stop, folder / f"part-{start_stop[0]:012d}.arrow")
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        for _ in range(min(processes(), len(ranges))):
            idle.put(stack.enter_context(_Worker(pickled)))
        pool = ThreadPoolExecutor(idle.qsize())
        stack.callback(pool.shutdown, cancel_futures=True)
        return list(_shown(pool.map(part, ranges), total=len(ranges)))


class _Worker:
    """A process that does parts of the work."""

    def __init__(self, pickled: bytes) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        path = os.pathsep.join(place or os.curdir for place in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tutelage.data.large.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C is for this process, which then ends it
        )
        self._pickled: bytes | None = pickled

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def part(self, start: int, stop: int, file: Path) -> dict[str, Any]:
        """What the part says of itself, when its sequences are in the file. Raises TutelageError when it fails."""
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None
        assert answers is not None
        with suppress(BrokenPipeError):
            if self._pickled is not None:
                given.write(len(self._pickled).to_bytes(8, "big") + self._pickled)
                self._pickled = None
            given.write(json.dumps([start, stop, str(file)]).encode() + b"\n")
            given.flush()
        answer = answers.readline()
        if not answer:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:] or ["killed, out of memory?"]
            raise TutelageError(f"a process that tokenises rows {start} to {stop} died ({last[0]}): run it again")
        found = json.loads(answer)
        if "error" in found:
            raise TutelageError(found["error"])
        return found


def _ranges(rows: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _shown(parts: Iterable[T], total: int | None = None, quiet: bool = False) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(parts, "tokenising", total=total, console=console, transient=True, disable=quiet)
