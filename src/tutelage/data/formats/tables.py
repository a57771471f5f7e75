"""Rows of tables: CSV and TSV, Parquet, Arrow."""

from __future__ import annotations

import csv
import datetime
import decimal
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, one_line
from tutelage.data.columns import BadRow, first_twice

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_NAMED = re.compile(r'"?sep=(\t|[^\w\s"])"?', re.IGNORECASE)  # a line before the header, for Excel
_LOOKED = 20  # rows that say whether a separator is the right one
_CALLS = ("tools", "functions", "tool_calls", "function_call")


def read_csv(place: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    """Rows of a table with a header; all values are texts. A row is named by the line where it begins."""
    csv.field_size_limit(sys.maxsize)
    line = 1
    try:
        separator, before = separator_of(file), int(_named_separator(file) is not None)  # lines before the header
        with file.open(encoding="utf-8-sig", newline="") as handle:
            if before:
                handle.readline()
            reader = csv.reader(handle, delimiter=separator, strict=True)
            header = next(filter(None, reader), [])
            _check_columns(place, file, header)
            line = before + reader.line_num + 1
            for row in reader:
                source, line = f"{label}:{line}", before + reader.line_num + 1
                if len(row) == len(header):
                    yield source, dict(zip(header, row, strict=True))
                elif row:
                    yield source, BadRow(source, f"{len(row)} values, and the header has {len(header)} columns")
    except UnicodeDecodeError as error:
        raise TutelageError(f"{place}{file}:{_undecodable_line(file)} is not UTF-8: save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise TutelageError(f"{place}cannot read {file}:{line}: {error}; mend the row that begins there") from error
    except (OSError, ValueError) as error:
        raise TutelageError(f"{place}cannot read {file}: {error}; save it as CSV in UTF-8") from error


def usual_separator(file: Path) -> str:
    """What the name says."""
    return "\t" if file.suffix == ".tsv" else ","


def separator_of(file: Path) -> str:
    """What separates the columns of a table: what its first line says (`sep=;`), else what its name says, unless that
    finds one column only, and exactly one other finds several in the header and as many in most rows. Raises OSError
    and UnicodeDecodeError."""
    if (named := _named_separator(file)) is not None:
        return named
    usual = usual_separator(file)
    if len((_first_rows(file, usual) or [[]])[0]) > 1:
        return usual
    others = [separator for separator in SEPARATORS if separator != usual and _fits(file, separator)]
    return others[0] if len(others) == 1 else usual


def _named_separator(file: Path) -> str | None:
    """What a first line `sep=;`, by which Excel is told, says of the columns; None where there is no such line."""
    with file.open(encoding="utf-8-sig", newline="") as handle:
        found = _NAMED.fullmatch(handle.readline(16).rstrip("\r\n"))
    return found[1] if found else None


def _fits(file: Path, separator: str) -> bool:
    """Whether the header has several columns, each with a name, and most of the first rows have as many values."""
    header, *rows = _first_rows(file, separator) or [[]]
    fitting = sum(len(row) == len(header) for row in rows)
    return len(header) > 1 and all(name.strip() for name in header) and 2 * fitting >= len(rows)


def _first_rows(file: Path, separator: str) -> list[list[str]]:
    """The header and the first rows, up to where they are broken by this separator."""
    rows: list[list[str]] = []
    with file.open(encoding="utf-8-sig", newline="") as handle, suppress(csv.Error):
        for row in filter(None, csv.reader(handle, delimiter=separator, strict=True)):
            rows.append(row)
            if len(rows) > _LOOKED:
                break
    return rows


def _undecodable_line(file: Path) -> int:
    """The first line that is not UTF-8."""
    with file.open("rb") as handle:
        return next((n for n, line in enumerate(handle, 1) if line.decode("utf-8", "replace").encode() != line), 1)


def read_parquet(place: str, file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        _check_columns(place, file, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=4096):
            yield from map(as_written, batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise TutelageError(f"{place}cannot read {file}: {one_line(error)}; get the file again") from error


def read_arrow(place: str, file: Path) -> Iterator[Any]:
    """Rows of an Arrow file: a stream, as `datasets` saves it, or a file with a footer (Feather)."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source:
            footed = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if footed else pa.ipc.open_stream(source)
            _check_columns(place, file, reader.schema.names)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if footed else iter(reader)
            for batch in batches:
                yield from map(as_written, batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise TutelageError(f"{place}cannot read {file}: {one_line(error)}; get the file again") from error


def as_written(value: Any, call: bool = False) -> Any:
    """A value of a table as its writer wrote it: whole numbers without `.0`, dates and decimals as text, calls of tools
    (`call`) without the null keys that all rows of a table must have."""
    if isinstance(value, dict):
        inside = {key: as_written(item, call or key in _CALLS) for key, item in value.items()}
        return {key: item for key, item in inside.items() if item is not None} if call else inside
    if isinstance(value, list):
        return [as_written(item, call) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, decimal.Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _check_columns(place: str, file: Path, names: Sequence[str]) -> None:
    """Raise TutelageError for two columns of one name: only one of them would be read."""
    twice = first_twice([name for name in names if name])
    if twice is not None:
        raise TutelageError(f"{place}{file} has two columns called `{twice}`: rename or remove one of them")
