"""Finished runs on storage that fsspec knows (`s3://…`, `gs://…`), beside a folder on each machine where runs work.

A run works in the local folder. What it builds on is fetched before, and its own folder goes up when it is done, with
`result.json` last: that file is what makes a run done, there as here, so that half an upload is never taken for a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import cache_folder
from tutelage.common.run_folder import ERROR, ERROR_LOG, LOG, RESULT
from tutelage.runs.run import Run

ERRORS = (ERROR, ERROR_LOG, LOG)
HEAVY = ("model", "tokenizer")  # folders that only runs need: status and reports do without
AT_ONCE = 16  # questions to the store at the same time


def open_runs(place: str) -> tuple[Path, Store | None]:
    """What `--runs` says: a folder, or a URL and then the folder on this machine that stands for it."""
    if "://" not in place:
        return Path(place), None
    if re.search(r"://[^/@]*:[^/@]*@", place):
        raise TutelageError(
            "--runs: no password in a URL, it would stand in logs: the storage's library takes it from the environment"
        )
    url = place.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[-60:]
    local = cache_folder().resolve() / "stores" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return local, Store(url, local)


@dataclass(frozen=True)
class Store:
    """`local` has one folder a run, and must be the same path on every machine of a study."""

    url: str
    local: Path

    def settle(self, runs: Sequence[Run], push: bool = False) -> None:
        """Fetch the small files of runs that are done in the store, and the errors of those that failed. With `push`,
        runs that are done here alone go up: their upload was killed."""
        with self._said(), ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda run: self._settle(run, push), runs))

    def is_done(self, run: Run) -> bool:
        with self._said():
            return self.files.exists(self._path(run, RESULT))

    def pull(self, run: Run) -> None:
        """Fetch all of a finished run that is not here yet."""
        with self._said():
            self._fetch(run, lambda name: True)

    def push(self, run: Run) -> None:
        """Upload a finished run. Whatever half of it is there is written again."""
        with self._said():
            found = [file for file in run.folder.rglob("*") if file.is_file() and _is_kept(file, run.folder)]
            self._put(run, found)
            # By a rename, since not every storage shows a file only when it is whole.
            self.files.put_file(str(run.folder / RESULT), self._path(run, f".{RESULT}.partial"))
            self.files.mv(self._path(run, f".{RESULT}.partial"), self._path(run, RESULT))
            if self.files.exists(self._path(run, ERRORS[0])):
                self.files.rm_file(self._path(run, ERRORS[0]))

    def push_error(self, run: Run) -> None:
        """Upload why a run failed."""
        with self._said():
            self._put(run, [run.folder / name for name in ERRORS if (run.folder / name).is_file()])

    def put(self, file: Path) -> None:
        """Upload a file that is no run's."""
        with self._said():
            self.files.put_file(str(file), f"{self.root}/{file.name}")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        try:
            files, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise TutelageError(f"--runs {self.url}: {str(error).strip().splitlines()[0]}") from error
        if isinstance(files, LocalFileSystem):
            files.auto_mkdir = True
        return files, root.rstrip("/")

    @property
    def files(self) -> Any:
        return self._opened[0]

    @property
    def root(self) -> str:
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "local": self.local}  # an open connection does not travel

    def _path(self, run: Run, name: str) -> str:
        return f"{self.root}/{run.folder.name}/{name}"

    def _settle(self, run: Run, push: bool) -> None:
        if run.done and not push:
            return
        if self.files.exists(self._path(run, RESULT)):
            if not run.done:
                self._fetch(run, lambda name: name.split("/")[0] not in HEAVY)
        elif run.done:
            if push:
                self.push(run)
        elif self.files.exists(self._path(run, ERRORS[0])):
            self._fetch(run, lambda name: name in ERRORS)

    def _put(self, run: Run, found: Sequence[Path]) -> None:
        if found:
            there = [self._path(run, file.relative_to(run.folder).as_posix()) for file in found]
            self.files.put([str(file) for file in found], there)

    def _fetch(self, run: Run, wanted: Callable[[str], bool]) -> None:
        """Each file comes whole or not at all, `result.json` last. Of two processes that fetch a run one waits."""
        top = f"{self.root}/{run.folder.name}"
        run.folder.mkdir(parents=True, exist_ok=True)
        folder = run.folder / ".fetched"
        with _alone(run.folder):
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
            there = [path.removeprefix(self.files._strip_protocol(top)).strip("/") for path in self.files.find(top)]
            names = [name for name in there if wanted(name) and not (run.folder / name).is_file()]
            names = [name for name in names if not name.rpartition("/")[2].startswith(".")]
            if not names:
                return
            self.files.get([f"{top}/{name}" for name in names], [f"{folder}/{name}" for name in names])
            for name in sorted(names, key=lambda name: name == RESULT):
                (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / name, run.folder / name)
            shutil.rmtree(folder)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """A storage's own errors as one line that names it."""
        try:
            yield
        except TutelageError:
            raise
        except Exception as error:
            line = (str(error).strip().splitlines() or ["no reason is known"])[0]
            raise TutelageError(f"{self.url}: {type(error).__name__}: {line}") from error


def _is_kept(file: Path, folder: Path) -> bool:
    """Everything but `result.json`, which goes last, the lock, and what is only of use on this machine."""
    name = file.relative_to(folder)
    return name.parts[0] not in (RESULT, "lock", "checkpoints") and not any(part.startswith(".") for part in name.parts)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
