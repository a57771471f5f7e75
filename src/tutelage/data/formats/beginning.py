"""What a file is by its first bytes, where that is not what its name says."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from contextlib import suppress
from pathlib import Path

from tutelage.common.errors import TutelageError

_LOOKED = 512  # bytes
_ROWS = "give a file with rows"
_SHEET = "save its table as CSV in UTF-8"
_GZIP = b"\x1f\x8b"
_SIGNS = (
    (b"\x89PNG", "a PNG image", _ROWS),
    (b"\xff\xd8\xff", "a JPEG image", _ROWS),
    (b"GIF8", "a GIF image", _ROWS),
    (b"%PDF", "a PDF", _ROWS),
    (b"PK\x03\x04", "a zip archive or a workbook", _SHEET),
    (b"\xd0\xcf\x11\xe0", "a document of an office program", _SHEET),
    (b"SQLite format 3", "a database of SQLite", "export its table as CSV"),
    (_GZIP, "compressed by gzip", "unpack it"),
    (b"PAR1", "Parquet", "call it .parquet"),
    (b"ARROW1", "Arrow", "call it .arrow"),
)
_OWN = {".parquet": b"PAR1", ".arrow": b"ARROW1"}
_PAGE = re.compile(rb"\s*<(!doctype html|html)\b", re.IGNORECASE)


def refuse_other_content(place: str, file: Path) -> None:
    """Raise TutelageError for a file that is plainly something else than its name says. `place` begins the message."""
    first = b""
    with (
        suppress(OSError, EOFError, zlib.error),
        gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle,
    ):
        first = handle.read(_LOOKED)  # what cannot be read is told by whoever reads it
    found = None if first.startswith(_OWN.get(file.suffix, b"\0\0")) else _seems(first, file)
    if found is not None:
        raise TutelageError(f"{place}{file} seems to be {found[0]}: {found[1]}")


def _seems(first: bytes, file: Path) -> tuple[str, str] | None:
    """What the bytes are, and what to do with such a file; None for what they may well be."""
    if first.startswith(_GZIP) and file.suffix in (".json", ".jsonl"):
        return "compressed by gzip", f"call it {file.name}.gz"
    for sign, what, advice in _SIGNS:
        if first.startswith(sign):
            return what, advice
    if file.suffix in _OWN:
        return None
    wide = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 5 * first.count(0) > 2 * len(first)
    if wide and file.name.endswith((".csv", ".tsv", ".jsonl", ".jsonl.gz")):  # .json may be so
        return "in UTF-16", "save it in UTF-8"
    if _PAGE.match(first):
        return "a web page", "download the file that the page shows"
    if file.suffix in (".csv", ".tsv") and re.match(rb"\s*\[?\s*\{\s*\"", first.removeprefix(codecs.BOM_UTF8)):
        return "JSON", "call it .jsonl, or .json if it is one list"
    return None
