"""The runs that a process is about to do: a small file beside the runs' folders, for those who watch them.

It is removed when the process has done them; what a killed process left is not believed, and the next one removes it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.locks import holder, lives, own_mark

_PREFIX = ".planned-"


def announce(root: Path, runs: Sequence[dict[str, Any]], title: str = "") -> None:
    """Write the runs that this process is going to do in the folder `root`. Each has `folder`, its name there, `stage`,
    `kind`, `seed` and `parents`, their folders' names. `title`: of the recipe or study. A disk that is full stops no
    run."""
    with suppress(OSError, TutelageError):
        if root.is_dir():
            for path in root.glob(f"{_PREFIX}*"):
                with suppress(OSError):  # another user's
                    if not lives(path):
                        path.unlink()
            write_atomically(_file(root), f"{own_mark()}\n{json.dumps({'title': title, 'runs': list(runs)})}\n")


def withdraw(root: Path) -> None:
    """Remove this process's list."""
    with suppress(OSError):
        _file(root).unlink(missing_ok=True)


def planned(root: Path, title: str | None = None) -> list[dict[str, Any]]:
    """The runs that living processes have announced in `root`, of the recipe or study `title` if that is given."""
    rows = [row for _, one in _announced(root) if title in (None, one["title"]) for row in one["runs"]]
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("folder"), str)]


def at_work(root: Path, title: str) -> list[str]:
    """The other processes that do the recipe or study `title` in `root` now, in words."""
    own = _file(root)
    return [holder(path) for path, content in _announced(root) if path != own and content["title"] == title]


def _announced(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of living processes, and what they announced."""
    for path in sorted(root.glob(f"{_PREFIX}*")):
        with suppress(OSError, ValueError, RecursionError):
            if path.is_file() and not path.is_symlink() and lives(path):
                content = json.loads(path.read_text(encoding="utf-8").partition("\n")[2])
                if isinstance(content, dict) and isinstance(content.get("runs"), list) and "title" in content:
                    yield path, content


def _file(root: Path) -> Path:
    return root / f"{_PREFIX}{platform.node()}-{os.getpid()}"
