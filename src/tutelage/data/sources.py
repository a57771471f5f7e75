"""Reading rows from local files, globs and hub data sets."""

from __future__ import annotations

import codecs
import csv
import datetime
import decimal
import glob
import gzip
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import hash_file
from tutelage.data.columns import BadRow
from tutelage.recipe.sections import DataConfig

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".arrow", ".csv", ".tsv")
_DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")  # beside saved data
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])")
_CALLS = ("tools", "functions", "tool_calls", "function_call")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def paths_of(config: DataConfig) -> list[str]:
    """The paths and hub names of a data section, which may be written as one text or as a list."""
    return [config.path] if isinstance(config.path, str) else config.path


def local_files(name: str, config: DataConfig, folder: Path) -> list[Path] | None:
    """The files of data section `name`, or None if it names a hub set; relative paths start at `folder`.

    Raises TutelageError as `resolve_sources` does.
    """
    files: list[Path] = []
    for path in paths_of(config):
        found = resolve_sources(f"data.{name}", path, folder)
        if isinstance(found, str):
            return None
        files += found
    return files


def most_rows(file: Path) -> int | None:
    """The number of rows that a file has at most, told without parsing them; None where that takes parsing."""
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            return parquet.read_metadata(file).num_rows
        except (pa.ArrowException, OSError):
            return None
    if file.suffix not in (".jsonl", ".csv", ".tsv"):
        return None
    try:
        with file.open("rb") as handle:
            if handle.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
                return None  # one list of rows, which may all be in one line
            handle.seek(0)
            return 1 + sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))
    except OSError:
        return None


def read_rows(key: str, config: DataConfig, folder: Path, versions: list[str]) -> Iterator[tuple[str, Any]]:
    """The rows of `open_rows`, one by one; appends their versions to `versions`."""
    found, rows = open_rows(key, config, folder)
    versions += found
    yield from rows


def open_rows(key: str, config: DataConfig, folder: Path) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    """A hash of each file or hub set of a section, and (source, row) of every path in order, not read yet; a row that
    cannot be parsed is a BadRow.

    Raises TutelageError, with `key` as the place, for sources that cannot be read.
    """
    paths = paths_of(config)
    if not paths:
        raise TutelageError(f"{key}.path: the list is empty; name at least one file or hub data set")
    sources = [resolve_sources(key, path, folder) for path in paths]
    for name, default in (("split", "train"), ("revision", None)):
        if getattr(config, name) != default and not any(isinstance(source, str) for source in sources):
            raise TutelageError(f"{key}.{name}: is for data sets of the hub, and `path` names local files: remove it")
    files = [file for source in sources if not isinstance(source, str) for file in source]
    labels = {file: file.name for file in files}
    if len(set(labels.values())) < len(labels):  # a/train.jsonl and b/train.jsonl: labels that differ
        labels = {file: os.path.relpath(file, os.path.commonpath(files)) for file in files}
    versions: list[str] = []
    parts: list[Iterator[tuple[str, Any]]] = []
    for source in sources:
        if isinstance(source, str):
            loaded = _load_hub(key, source, config)
            versions.append(loaded._fingerprint)
            parts.append(_hub_rows(source, loaded))
            continue
        for file in source:
            before = _state(file)
            versions.append(hash_file(file))
            parts.append(_unchanged(key, file, labels[file], before))
    return versions, chain.from_iterable(parts)


def _unchanged(key: str, file: Path, label: str, before: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    """The rows of a file. Raises TutelageError if it is then not as it was `before`."""
    yield from read_file(key, file, label)
    if _state(file) != before:
        raise TutelageError(
            f"{key}.path: {file} changed while it was read: wait until it is written, and run the same command"
        )


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def resolve_sources(key: str, written: str, folder: Path) -> list[Path] | str:
    """The files of `written`, one path of a data section, or `written` with its variables replaced if it is a hub name.

    Relative paths start at `folder`; `key` names the section in messages. Raises TutelageError for variables that are
    not set, missing files, folders, and unknown formats.
    """

    def value_of(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable not in os.environ:
            raise TutelageError(f"{key}.path: the variable ${variable} in `{written}` is not set; export it first")
        return os.environ[variable]

    text = os.path.expanduser(_VARIABLE.sub(value_of, written))
    if "://" in text:
        raise TutelageError(f"{key}.path: `{written}` is an address: download the file, and name it where it then is")
    path = Path(os.path.abspath(folder / text))  # an absolute path ignores the folder
    if glob.has_magic(text) and not path.exists():
        matches = glob.glob(text, root_dir=folder, recursive=True)
        found = sorted(Path(os.path.abspath(folder / file)) for file in matches)
        if not found:
            raise TutelageError(f"{key}.path: no file matches `{written}` (looked for {path}); correct the path")
    elif path.exists() or text.endswith(SUFFIXES) or text.startswith((".", "/")):
        found = _files_of_folder(key, path, written) if path.is_dir() else [path]
        if not path.exists():
            raise TutelageError(f"{key}.path: no file `{written}` (looked for {path}); correct the path")
    else:
        return text
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise TutelageError(f"{key}.path: cannot read {file}; the formats are {', '.join(SUFFIXES)}")
    return found


def _files_of_folder(key: str, folder: Path, written: str) -> list[Path]:
    """The data files of a folder, which must be of one format and one split; TutelageError says what to write."""
    files = sorted(f for f in folder.iterdir() if f.name.endswith(SUFFIXES) and f.name not in _DESCRIPTIONS)
    kinds = sorted({f".{file.name.partition('.')[2]}" for file in files})
    splits = sorted({match[1] for file in files if (match := _SPLIT.match(file.name))})
    inside = sorted({file.parent.name for suffix in SUFFIXES for file in folder.glob(f"*/*{suffix}")})
    if not files and inside:
        raise TutelageError(
            f"{key}.path: `{written}` is a folder of folders ({', '.join(inside)}); name one: {written}/{inside[0]}"
        )
    if not files:
        raise TutelageError(f"{key}.path: `{written}` is a folder; name its files, for example {written}/*.jsonl")
    if len(splits) > 1:
        raise TutelageError(
            f"{key}.path: the folder `{written}` has several splits ({', '.join(splits)}); name the files of one: "
            f"{written}/{splits[0]}*"
        )
    if len({kind.removesuffix(".gz") for kind in kinds}) > 1:
        raise TutelageError(
            f"{key}.path: the folder `{written}` has files of several formats ({', '.join(kinds)}); name those of one: "
            f"{written}/*{kinds[0]}"
        )
    return files


def read_file(key: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    """(source, row) of one file, whose rows are named `label`; as `read_rows` otherwise."""
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_json_lines(key, file, label)
    elif file.name.endswith((".csv", ".tsv")):
        yield from _read_csv(key, file, label)
    else:
        tables = {".parquet": _read_parquet, ".arrow": _read_arrow}
        for number, row in enumerate(tables.get(file.suffix, _read_json)(key, file), start=1):
            yield f"{label}:{number}", row


def _read_json_lines(key: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            _check_beginning(key, file, handle.read(2))
            handle.seek(0)
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
                    yield source, parsed_row(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
                    yield source, BadRow(source, f"broken JSON: {error}")
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {error}; get the file again") from error


def parsed_row(text: str) -> Any:
    """The value of JSON text. Raises ValueError also for a key that is given twice, of which JSON keeps the last."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has two keys `{_twice([key for key, _ in pairs])}`")
    return found


def _twice(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def _check_columns(key: str, file: Path, names: Sequence[str]) -> None:
    """Raise TutelageError for two columns of one name: only one of them would be read."""
    twice = _twice([name for name in names if name])
    if twice is not None:
        raise TutelageError(f"{key}.path: {file} has two columns called `{twice}`: rename or remove one")


def _check_beginning(key: str, file: Path, first: bytes) -> None:
    """Raise TutelageError for a file that its first two bytes show to be no text in UTF-8."""
    if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise TutelageError(f"{key}.path: {file} is in UTF-16: save it in UTF-8")
    if first == b"\x1f\x8b":
        raise TutelageError(f"{key}.path: {file} is compressed by gzip: call it {file.name}.gz")


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
            rows = parsed_row(text)
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


def _read_csv(key: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    """Rows of a table with a header; all values are texts. A row is named by the line where it begins."""
    csv.field_size_limit(sys.maxsize)
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
            header = next(reader, [])
            _check_columns(key, file, header)
            line = reader.line_num + 1
            for row in reader:
                source, line = f"{label}:{line}", reader.line_num + 1
                if len(row) == len(header):
                    yield source, dict(zip(header, row, strict=True))
                elif row:
                    yield source, BadRow(source, f"{len(row)} values, and the header has {len(header)} columns")
    except UnicodeDecodeError as error:
        raise TutelageError(
            f"{key}.path: {file}:{_undecodable_line(file)} is not UTF-8: save it as CSV in UTF-8"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {error}; save it as CSV in UTF-8") from error


def _undecodable_line(file: Path) -> int:
    """The first line that is not UTF-8."""
    with file.open("rb") as handle:
        return next((n for n, line in enumerate(handle, 1) if line.decode("utf-8", "replace").encode() != line), 1)


def _read_json(key: str, file: Path) -> list[Any]:
    """The rows of a file that is one list, or one object with exactly one list among its values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            value = json.loads(handle.read(), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        hint = "; a file of one object per line should be called .jsonl" if error.msg == "Extra data" else "; fix it"
        raise TutelageError(f"{key}.path: broken JSON at {file}:{error.lineno}: {error.msg}{hint}") from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {error}; get the file again") from error
    lists = [value] if isinstance(value, list) else []
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
    if len(lists) != 1:
        raise TutelageError(f"{key}.path: {file} must be a list of rows or an object with one list, not {len(lists)}")
    return lists[0]


def _read_parquet(key: str, file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        _check_columns(key, file, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=4096):
            yield from map(as_written, batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {_one_line(error)}; get the file again") from error


def _read_arrow(key: str, file: Path) -> Iterator[Any]:
    """Rows of an Arrow file: a stream, as `datasets` saves it, or a file with a footer (Feather)."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source:
            footed = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if footed else pa.ipc.open_stream(source)
            _check_columns(key, file, reader.schema.names)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if footed else iter(reader)
            for batch in batches:
                yield from map(as_written, batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {_one_line(error)}; get the file again") from error


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


def _load_hub(key: str, written: str, config: DataConfig) -> Any:
    import datasets

    path, _, configuration = written.partition(":")
    try:
        return datasets.load_dataset(path, configuration or None, split=config.split, revision=config.revision)
    except Exception as error:  # the client raises its own errors, HTTP and system errors, and ValueError
        if isinstance(error, ConnectionError) or "offline" in str(error).lower():
            advice = "check the network, load it once while online, or name local files"
        else:
            advice = f"check the name, `{key}.split`, `{key}.revision` and your access rights, or name local files"
        raise TutelageError(
            f"{key}.path: `{written}` is not a local file and cannot be loaded from the hub: {_one_line(error)}; "
            f"{advice}"
        ) from error


def _hub_rows(written: str, loaded: Any) -> Iterator[tuple[str, Any]]:
    for index, row in enumerate(loaded):
        yield f"{written}:{index}", as_written(row)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
