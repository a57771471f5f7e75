"""Read the benchmarks' rows: from a folder (`--data-dir`, $TUTELAGE_DATA), else from the Hugging Face hub."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.data.sources import UNREACHABLE, hub_asked_once, is_unreachable

VARIABLE = "TUTELAGE_DATA"
_IN_A_FOLDER = f"put the data in a folder for --data-dir or ${VARIABLE} (docs/evaluation.md)"


class HubError(TutelageError):
    """A data set cannot be loaded from the hub."""


@dataclass(frozen=True)
class Hub:
    """A data set on the hub."""

    name: str
    split: str
    config: str | None = None


def data_folder(option: Path | None) -> Path | None:
    """The folder to read from, or None for the hub. Raises TutelageError when the folder does not exist."""
    named = option or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None and not named.is_dir():
        origin = "--data-dir" if option else f"${VARIABLE}"
        raise TutelageError(
            f"{origin}: {named} is not a folder: give the folder that holds ifeval/, bbh/, … or unset it"
        )
    return named


def find(data_dir: Path, relative: str) -> Path:
    """A file of the data folder, or the same compressed (.gz). Raises TutelageError when both are absent."""
    found = located(data_dir, relative)
    if found is None:
        raise TutelageError(
            f"{data_dir / relative} is missing: put the file there (docs/evaluation.md says where it comes from), "
            f"or remove the benchmark's other files, so that it is read from the hub"
        )
    return found


def located(data_dir: Path, relative: str) -> Path | None:
    """A file of the data folder, or the same compressed (.gz); None when both are absent."""
    paths = (data_dir / relative, data_dir / f"{relative}.gz")
    return next((path for path in paths if path.is_file()), None)


def read_rows(data_dir: Path | None, relative: str, hub: Hub, needed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file of the folder, or of a hub data set, each with the `needed` keys."""
    if data_dir is None:
        rows = hub_rows(hub)
        return [checked(row, needed, f"{hub.name}:{number}") for number, row in enumerate(rows)]
    path = find(data_dir, relative)
    return [checked(row, needed, f"{path}:{number}") for number, row in read_lines(path)]


def read_lines(path: Path) -> list[tuple[int, Any]]:
    """(line number from 1, value) per line of a JSON Lines file, blank lines left out.

    Raises TutelageError, naming file and line, for what cannot be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open  # utf-8-sig: some editors put a byte order mark first
    rows: list[tuple[int, Any]] = []
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise TutelageError(f"{path}: cannot be read: {error}; correct it or take it from its source again") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # json raises both for valid JSON, too: for long numbers and deep lists
        reason = getattr(error, "msg", error)
        raise TutelageError(f"{path}:{number}: not valid JSON: {reason}; correct or remove the line") from None
    return rows


def read_text_lines(path: Path) -> list[str]:
    """The lines of a text file without their line ends. Only \\n ends a line, not U+2028 and the like."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TutelageError(f"{path}: cannot be read: {error}; take the file from its source again") from None
    return text.removesuffix("\n").split("\n")


def checked(row: Any, needed: Iterable[str], where: str) -> dict[str, Any]:
    """The row. Raises TutelageError where it is not an object with the `needed` keys; `where`: for the message."""
    if not isinstance(row, dict):
        raise TutelageError(f"{where}: not an object; take the file from its source again")
    missing = [key for key in needed if key not in row]
    if missing:
        raise TutelageError(f"{where}: has no `{'`, `'.join(missing)}`; take the file from its source again")
    return row


def hub_rows(hub: Hub) -> list[dict[str, Any]]:
    """The rows of a hub data set. Raises HubError when it cannot be loaded."""
    from datasets import load_dataset

    try:
        with hub_asked_once():
            return [dict(row) for row in load_dataset(hub.name, hub.config, split=hub.split)]
    except Exception as error:  # no network, gated, unknown name: each its own class of several libraries
        what = f"{hub.name}: cannot be loaded from the hub"
        if is_unreachable(error):
            raise HubError(f"{what}, {UNREACHABLE}, or {_IN_A_FOLDER}") from None
        raise HubError(
            f"{what} ({' '.join(str(error).split())[:200]}); {_IN_A_FOLDER}, or, where the set is gated, accept its "
            "terms and log in"
        ) from None
