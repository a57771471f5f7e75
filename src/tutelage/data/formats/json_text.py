"""Rows of files with JSON: an object per line, objects over several lines, or one list."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.data.columns import BadRow, first_twice


def read_lines(place: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    """(source, row) of a file of lines, each of which is named by its number."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            whole = _whole_values(handle, label)
            if whole is not None:
                yield from whole
                return
            handle.seek(0)
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                source = f"{label}:{number}"
                try:
                    yield source, _parsed(line.decode("utf-8-sig"))
                except UnicodeDecodeError:
                    yield source, BadRow(source, "not UTF-8: save the file in UTF-8")
                except (ValueError, RecursionError) as error:
                    yield source, BadRow(source, f"broken JSON: {error}")
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{place}cannot read {file}: {error}; get the file again") from error


def read_whole(place: str, file: Path) -> list[Any]:
    """The rows of a file that is one list, or one object with exactly one list among its values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            value = json.loads(handle.read(), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        hint = "; a file of one object per line should be called .jsonl" if error.msg == "Extra data" else "; fix it"
        raise TutelageError(f"{place}broken JSON at {file}:{error.lineno}: {error.msg}{hint}") from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise TutelageError(f"{place}cannot read {file}: {error}; get the file again") from error
    lists = [value] if isinstance(value, list) else []
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
    if len(lists) != 1:
        count = len(lists) or "none"
        raise TutelageError(
            f"{place}{file} must be a list of rows or an object with one list in it, and it has {count}"
        )
    return lists[0]


def _parsed(text: str) -> Any:
    """The value of JSON text. Raises ValueError also for a key that is given twice, of which JSON keeps the last."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has two keys `{first_twice([key for key, _ in pairs])}`")
    return found


def _whole_values(handle: gzip.GzipFile | BufferedReader, label: str) -> list[tuple[str, Any]] | None:
    """The rows of a file that is called .jsonl but holds one list of objects, or objects over several lines; else None.

    A row of a list is named by its number, an object by the line where it begins.
    """
    first = next((line for line in handle if line.strip()), b"").removeprefix(codecs.BOM_UTF8).strip()
    if first != b"{" and not first.startswith(b"["):
        return None
    handle.seek(0)
    try:
        text = handle.read().decode("utf-8-sig")
        if first.startswith(b"["):
            rows = _parsed(text)
            named = [(f"{label}:{number}", row) for number, row in enumerate(rows, start=1)]
        else:
            named = [(f"{label}:{line}", row) for line, row in _objects(text)]
    except (ValueError, RecursionError):
        return None
    return named if named and all(isinstance(row, dict) for _, row in named) else None


def _objects(text: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of every JSON value of a text, one after the other."""
    decoder, place, line, counted = json.JSONDecoder(object_pairs_hook=_unique), 0, 1, 0
    while (start := len(text) - len(text[place:].lstrip())) < len(text):
        line, counted = line + text.count("\n", counted, start), start
        value, place = decoder.raw_decode(text, start)
        yield line, value
