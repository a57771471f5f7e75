"""Finished runs on any storage that fsspec knows (`s3://…`, `gs://…`), and a local folder of runs on each machine.

A run works in the local folder. The runs that it builds on are fetched first, and its own folder is uploaded when it is
done, `result.json` last: a run counts as done only when that file exists, locally and remotely, so half an upload never
does.
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
HEAVY = ("model", "tokenizer")  # folders that only runs need; status and reports do not
REQUESTS = 16  # requests to the store at the same time


def open_runs(place: str) -> tuple[Path, Store | None]:
    """The local folder of runs and the store that `--runs` names: for a folder, itself and None; for a URL, a folder in
    the cache and the store. Raises TutelageError for a URL with a password."""
    if "://" not in place:
        return Path(place), None
    if re.search(r"://[^/@]*:[^/@]*@", place):
        raise TutelageError(
            "--runs: no password in a URL, it would appear in logs: the storage's library reads it from the environment"
        )
    url = place.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[-60:]
    local = cache_folder().resolve() / "stores" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return local, Store(url, local)


@dataclass(frozen=True)
class Store:
    """A store of runs. `local` has one folder per run, and must be the same path on every machine of a study.

    Every method raises TutelageError, one line with the URL, when the storage fails.
    """

    url: str
    local: Path

    def settle(self, runs: Sequence[Run], push: bool = False) -> None:
        """Fetch the small files of runs that are done in the store, and the errors of those that failed there. With
        `push`, also upload runs that are done only here, whose upload was killed."""
        with self._one_line_errors(), ThreadPoolExecutor(REQUESTS) as threads:
            list(threads.map(lambda run: self._catch_up(run, push), runs))

    def is_done(self, run: Run) -> bool:
        """Whether the run is done in the store."""
        with self._one_line_errors():
            return self.files.exists(self._path(run, RESULT))

    def pull(self, run: Run) -> None:
        """Fetch all files of a finished run that are not here yet."""
        with self._one_line_errors():
            self._fetch(run, lambda name: True)

    def push(self, run: Run) -> None:
        """Upload a finished run, over whatever an earlier upload left."""
        with self._one_line_errors():
            self._upload(run, [file for file in run.folder.rglob("*") if file.is_file() and _is_kept(file, run.folder)])
            # By a rename, since some storages show a file before it is complete.
            self.files.put_file(str(run.folder / RESULT), self._path(run, f".{RESULT}.partial"))
            self.files.mv(self._path(run, f".{RESULT}.partial"), self._path(run, RESULT))
            if self.files.exists(self._path(run, ERRORS[0])):
                self.files.rm_file(self._path(run, ERRORS[0]))

    def push_error(self, run: Run) -> None:
        """Upload the error files of a run that failed."""
        with self._one_line_errors():
            self._upload(run, [run.folder / name for name in ERRORS if (run.folder / name).is_file()])

    def put(self, file: Path) -> None:
        """Upload a file that belongs to no run, to the top of the store."""
        with self._one_line_errors():
            self.files.put_file(str(file), f"{self.root}/{file.name}")

    def get(self, name: str) -> None:
        """Fetch a file that `put` uploaded, if it is there."""
        with self._one_line_errors():
            if self.files.exists(f"{self.root}/{name}"):
                self.local.mkdir(parents=True, exist_ok=True)
                self.files.get_file(f"{self.root}/{name}", str(self.local / name))

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it."""
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
        """The fsspec file system."""
        return self._opened[0]

    @property
    def root(self) -> str:
        """The store's path in that file system."""
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "local": self.local}  # an open connection cannot be pickled

    def _path(self, run: Run, name: str) -> str:
        return f"{self.root}/{run.folder.name}/{name}"

    def _catch_up(self, run: Run, push: bool) -> None:
        """`settle` for one run."""
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

    def _upload(self, run: Run, local: Sequence[Path]) -> None:
        if local:
            remote = [self._path(run, file.relative_to(run.folder).as_posix()) for file in local]
            self.files.put([str(file) for file in local], remote)

    def _fetch(self, run: Run, wanted: Callable[[str], bool]) -> None:
        """Fetch the files with `wanted(name)`, each whole or not at all, `result.json` last; one process at a time."""
        remote = f"{self.root}/{run.folder.name}"
        run.folder.mkdir(parents=True, exist_ok=True)
        folder = run.folder / ".fetched"
        with _exclusively(run.folder):
            shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
            prefix = self.files._strip_protocol(remote)
            found = [path.removeprefix(prefix).strip("/") for path in self.files.find(remote)]
            names = [name for name in found if wanted(name) and not (run.folder / name).is_file()]
            names = [name for name in names if not any(part.startswith(".") for part in re.split(r"[/\\]", name))]
            if not names:
                return
            self.files.get([f"{remote}/{name}" for name in names], [f"{folder}/{name}" for name in names])
            for name in sorted(names, key=lambda name: name == RESULT):
                (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / name, run.folder / name)
            shutil.rmtree(folder)

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn any storage error into a one-line TutelageError that names the URL."""
        try:
            yield
        except TutelageError:
            raise
        except Exception as error:
            line = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise TutelageError(f"{self.url}: {type(error).__name__}: {line}") from error


def _is_kept(file: Path, folder: Path) -> bool:
    """Whether `push` uploads a file first: not `result.json`, which goes last, nor the lock, checkpoints, dot files."""
    name = file.relative_to(folder)
    return name.parts[0] not in (RESULT, "lock", "checkpoints") and not any(part.startswith(".") for part in name.parts)


@contextlib.contextmanager
def _exclusively(folder: Path) -> Iterator[None]:
    """Hold the system's lock on a folder; waits for another process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
