"""Folders of the cache that hold what was made once from large data. One is there whole, or not at all.

They lie in `$TUTELAGE_CACHE/data` under names that are hashes of all that decides their content, so they never go
stale, and any may be deleted while nothing runs.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tutelage.common.checksums import read_one, seal
from tutelage.common.errors import TutelageError
from tutelage.common.files import alone_in, cache_folder, hash_file, storage_problem
from tutelage.common.hashing import fingerprint

LARGE = 20_000  # rows from which on data is kept in files; fewer are read anew each time, in seconds
_ABOUT = "about.json"


@cache
def code_version() -> str:
    """A hash of the code that reads and encodes rows, and of the libraries that it uses."""
    code = [hash_file(file) for file in sorted(Path(__file__).parents[1].rglob("*.py"))]
    return fingerprint(code, [importlib.metadata.version(name) for name in ("transformers", "tokenizers", "jinja2")])


def find(name: str) -> Path | None:
    """The folder of this name, if it is there and its files have the sizes with which they were written."""
    folder = cache_folder() / "data" / name
    about = read_one(folder / _ABOUT)
    if about is None or any(_size(folder / file) != size for file, size in about["sizes"].items()):
        return None
    return folder


def make(name: str, what: str, write: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder of this name, made by `write(folder)` if it is absent. One process makes, all others wait for it.

    `what`: what is made, for messages. `write` returns what `about` then gives. Raises TutelageError when the
    disk is full.
    """
    root = cache_folder() / "data"
    try:
        with alone_in(root, wait=f"another process prepares data in {root}: waiting for it"):
            if (folder := find(name)) is not None:
                return folder
            for left in root.glob(f".{name}-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
            try:
                content = write(partial)
                sizes = {file.name: _size(file) for file in partial.iterdir()}
                for file in sizes:
                    hash_file(partial / file, sync=True)
                (partial / _ABOUT).write_text(seal({"sizes": sizes, "content": content}))
                shutil.rmtree(root / name, ignore_errors=True)  # a damaged one
                return partial.rename(root / name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        raise TutelageError(
            f"{what} cannot be kept in {root}: {problem}; $TUTELAGE_CACHE names another place"
        ) from error


def about(folder: Path) -> dict[str, Any]:
    """What `write` returned when the folder was made."""
    return json.loads((folder / _ABOUT).read_text())["content"]


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
