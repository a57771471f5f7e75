"""Reading rows from local files, globs and hub data sets."""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from tutelage.common.errors import TutelageError
from tutelage.common.files import hash_file
from tutelage.data.rows import BadRow
from tutelage.recipe.sections import DataConfig

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
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


def read_rows(key: str, config: DataConfig, folder: Path, versions: list[str]) -> Iterator[tuple[str, Any]]:
    """(source, row) of every path in order; a row that cannot be parsed is a BadRow.

    Appends a hash of each file or hub set to `versions`. Raises TutelageError, with `key` as the place, for sources
    that cannot be read.
    """
    paths = paths_of(config)
    if not paths:
        raise TutelageError(f"{key}.path: the list is empty; name at least one file or hub data set")
    sources = [resolve_sources(key, path, folder) for path in paths]
    files = [file for source in sources if not isinstance(source, str) for file in source]
    labels = {file: file.name for file in files}
    if len(set(labels.values())) < len(labels):  # a/train.jsonl and b/train.jsonl: labels that differ
        labels = {file: os.path.relpath(file, os.path.commonpath(files)) for file in files}
    for source in sources:
        if isinstance(source, str):
            yield from _read_hub(key, source, config, versions)
            continue
        for file in source:
            versions.append(hash_file(file))
            yield from _read_file(key, file, labels[file])


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
    path = Path(os.path.abspath(folder / text))  # an absolute path ignores the folder
    if glob.has_magic(text) and not path.exists():
        matches = glob.glob(text, root_dir=folder, recursive=True)
        found = sorted(Path(os.path.abspath(folder / file)) for file in matches)
        if not found:
            raise TutelageError(f"{key}.path: no file matches `{written}` (looked for {path}); correct the path")
    elif path.exists() or text.endswith(SUFFIXES) or text.startswith((".", "/")):
        found = [path]
        if path.is_dir():
            raise TutelageError(f"{key}.path: `{written}` is a folder; name its files, for example {written}/*.jsonl")
        if not path.exists():
            raise TutelageError(f"{key}.path: no file `{written}` (looked for {path}); correct the path")
    else:
        return text
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise TutelageError(f"{key}.path: cannot read {file}; the formats are {', '.join(SUFFIXES)}")
    return found


def _read_file(key: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_json_lines(key, file, label)
        return
    rows = _read_parquet(key, file) if file.name.endswith(".parquet") else _read_json(key, file)
    for number, row in enumerate(rows, start=1):
        yield f"{label}:{number}", row


def _read_json_lines(key: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                source = f"{label}:{number}"
                try:
                    yield source, json.loads(line)
                except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
                    yield source, BadRow(source, f"broken JSON: {error}")
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {error}; get the file again") from error


def _read_json(key: str, file: Path) -> list[Any]:
    """The rows of a file that is one list, or one object with exactly one list among its values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            value = json.loads(handle.read())
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
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise TutelageError(f"{key}.path: cannot read {file}: {_one_line(error)}; get the file again") from error


def _read_hub(key: str, written: str, config: DataConfig, versions: list[str]) -> Iterator[tuple[str, Any]]:
    import datasets

    path, _, configuration = written.partition(":")
    try:
        loaded = datasets.load_dataset(path, configuration or None, split=config.split, revision=config.revision)
    except Exception as error:  # the client raises its own errors, HTTP and system errors, and ValueError
        if isinstance(error, ConnectionError) or "offline" in str(error).lower():
            advice = "check the network, load it once while online, or name local files"
        else:
            advice = f"check the name, `{key}.split`, `{key}.revision` and your access rights, or name local files"
        raise TutelageError(
            f"{key}.path: `{written}` is not a local file and cannot be loaded from the hub: {_one_line(error)}; "
            f"{advice}"
        ) from error
    loaded = cast(datasets.Dataset, loaded)
    versions.append(loaded._fingerprint)
    for index, row in enumerate(loaded):
        yield f"{written}:{index}", row


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
