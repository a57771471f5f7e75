"""Rows in memory as a file that recipes can name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically


def rows_path(rows: Any, folder: Path, argument: str) -> str:
    """The `path` of a data section with these rows, absolute unless it names a hub data set.

    `rows`: a file, a folder, a glob or a hub data set by name; or rows in memory (dicts, a pandas frame, a
    `datasets.Dataset`), which are written to `<folder>/<argument>-<hash of the content>.jsonl` unless that is there.
    `argument`: what errors call the rows. Raises TutelageError for no rows, and for rows that are not dicts of JSON
    values.
    """
    if isinstance(rows, str | os.PathLike):
        written = os.path.expanduser(os.fspath(rows))
        return os.path.abspath(written) if os.path.exists(written) else written
    text = "".join(_lines(rows, argument))
    if not text:
        raise TutelageError(f"{argument}: there is no row: give at least one")
    content = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    path = folder / f"{argument}-{content[:12]}.jsonl"
    if not path.is_file():
        write_atomically(path, text)
    return os.path.abspath(path)


def _lines(rows: Any, argument: str) -> Iterable[str]:
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        what = f"a mapping with {', '.join(map(str, rows))}" if isinstance(rows, Mapping) else type(rows).__name__
        raise TutelageError(
            f"{argument}: {what} is no rows: give a path, a list of dicts, a frame or one data set split"
        )
    if hasattr(rows, "notna") and hasattr(rows, "to_dict"):  # a pandas frame: NaN is a missing value
        frame: Any = rows
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TutelageError(
                f"{argument}: row {number} is no dict but {type(row).__name__}: give its columns by name"
            )
        try:
            yield json.dumps(dict(row), ensure_ascii=False, default=_plain) + "\n"
        except (TypeError, ValueError) as error:
            raise TutelageError(f"{argument}: row {number}: {error}: give texts, numbers, lists and dicts") from None


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, and dates, as JSON values."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
