"""Checksums of what a run writes, so that a damaged file is never used silently.

Lines that are written one by one (metrics, answers, replies, sampled responses) end in a key `checksum`, the CRC-32 of
the line's text before it. All files of a finished run have their SHA-256 in `checksums.json`, which is written just
before `result.json`. Files from before there were checksums are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import cached_hash, hash_file, write_atomically

CHECKSUMS = "checksums.json"
_SEAL = re.compile(r'(.*), "checksum": "([0-9a-f]{8})"\}', re.DOTALL)
_KEY = ', "checksum": "'
_AS_TEXT = "backslashreplace"  # a lone surrogate counts as its escape


class DamagedError(TutelageError, ValueError):
    """A file is absent, or not as it was written."""


def seal(row: dict[str, Any], ensure_ascii: bool = True) -> str:
    """`row`, which is not empty, as one line of JSON with its checksum, and the line break."""
    text = json.dumps(row, ensure_ascii=ensure_ascii)[:-1]
    return f'{text}, "checksum": "{_crc(text)}"}}\n'


def unseal(line: str) -> dict[str, Any]:
    """The row of a line, without its checksum. Raises ValueError when the line is damaged or cut."""
    line = line.rstrip("\n")
    found = _SEAL.fullmatch(line)
    if found is not None and found[2] != _crc(found[1]):
        raise ValueError("its checksum differs")
    tail = line[-len(_KEY) - 10 : -10]
    if found is None and len(tail) == len(_KEY) and sum(map(str.__ne__, tail, _KEY)) < 3:
        raise ValueError("its checksum is damaged")
    row = json.loads(line if found is None else found[1] + "}")
    if not isinstance(row, dict) or "checksum" in row:
        raise ValueError("it is not a line as it was written")
    return row


def read_sealed(path: Path) -> list[dict[str, Any] | None]:
    """The rows of a file of such lines, None for each damaged one; a last line that a kill cut is left out. Empty where
    there is no file."""
    rows: list[dict[str, Any] | None] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, 1):
        last = number == len(lines)  # without a line break
        if last and not line:
            break
        try:
            rows.append(unseal(line.decode()))
        except (ValueError, RecursionError):
            rows += [] if last else [None]
    return rows


def read_one(path: Path) -> dict[str, Any] | None:
    """The row of a file of one such line; None where it is absent or damaged."""
    rows = read_sealed(path)
    return rows[0] if len(rows) == 1 else None


def write_checksums(folder: Path, names: list[str], last: str, text: str) -> None:
    """Write `checksums.json` for the files `names` of the folder, and for the file `last`, about to be written with the
    content `text`. All of them reach the disk first. Raises TutelageError when it cannot be written."""
    found = {name: hash_file(folder / name, sync=True) for name in sorted(names)}
    found[last] = hashlib.sha256(text.encode("utf-8", _AS_TEXT)).hexdigest()
    write_atomically(folder / CHECKSUMS, json.dumps(found, indent=1) + "\n")


def read_checked(folder: Path, name: str) -> bytes:
    """The content of a file of the folder. Raises DamagedError when it is absent or not as it was written."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise DamagedError(f"{folder / name} cannot be read ({error.strerror}); {_advice(folder)}") from None
    wanted = _checksums(folder).get(name)
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
        raise DamagedError(_differs(folder, name))
    return content


def check_file(path: Path) -> None:
    """Check a file whose folder may have checksums. Raises DamagedError as `read_checked` does."""
    if path.name in _checksums(path.parent):
        read_checked(path.parent, path.name)


def check_files(folder: Path, heavy: str) -> None:
    """Check all files of a finished run. Those under the folder `heavy` are read once per size and time of change.

    Raises DamagedError for the first one that is absent or not as it was written.
    """
    for name, wanted in _checksums(folder).items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing; {_advice(folder)}")
        if (cached_hash if name.startswith(f"{heavy}/") else hash_file)(path) != wanted:
            raise DamagedError(_differs(folder, name))


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError
    except FileNotFoundError:
        return {}  # from before there were checksums
    except (OSError, ValueError, RecursionError):
        raise DamagedError(f"{path} is damaged; {_advice(folder)}") from None
    return found


def _differs(folder: Path, name: str) -> str:
    return (
        f"{folder / name} is damaged: its checksum is not the one in {CHECKSUMS}; {_advice(folder)} (if you changed it "
        f"yourself, remove {CHECKSUMS} instead)"
    )


def _advice(folder: Path) -> str:
    return f"restore it, or remove the folder {folder}, which the same command then makes again"


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', _AS_TEXT)):08x}"
