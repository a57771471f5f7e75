"""Hub names and local files become conversations: read, check, name, cut a seeded subset.

A bad row is never silently dropped: it is kept as (source, reason), and too many of them stop the run.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tutelage.config import DataConfig, fingerprint, hash_file
from tutelage.rows import ID_COLUMNS, BadRowError, convert
from tutelage.types import Conversation, TutelageError

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(frozen=True)
class BadRow:
    source: str  # "file.jsonl:17" or "hub-name:16"
    reason: str


@dataclass(frozen=True)
class LoadedData:
    conversations: tuple[Conversation, ...]  # file order; the seeded order where `size` or `skip` is given
    bad_rows: tuple[BadRow, ...]  # over everything read, not only the subset
    total: int  # rows read, the bad ones included, before the subset is cut
    fingerprint: str


@dataclass(frozen=True)
class _Candidate:
    position: int  # of the row among all rows read, so that mending a bad row does not reshuffle the others
    conversation: Conversation
    names: Mapping[str, str]  # id column → value


def load_dataset(name: str, config: DataConfig, base: Path, require_response: bool = True) -> LoadedData:
    """Read the data section `name` of a recipe; relative paths start at `base`, the recipe file's folder.

    `require_response=False` also takes rows that end in a user turn (bare prompts for evaluation).
    A hub name may carry its configuration after a colon (`openai/gsm8k:main`).

    Raises TutelageError for missing files, an unreachable hub, doubled ids, more bad rows than `max_bad_rows`, and
    subsets that are larger than the data.
    """
    key = name if name.startswith("data.") else f"data.{name}"
    if config.completion is not None and config.prompt is None:
        raise TutelageError(f"{key}.completion: a template for the completion needs one for `{key}.prompt` too")
    good: list[_Candidate] = []
    bad: list[BadRow] = []
    total = 0
    versions: list[str] = []
    for position, (source, row) in enumerate(_rows(key, config, base, versions)):
        total = position + 1
        try:
            if isinstance(row, BadRow):
                raise BadRowError(row.reason)
            good.append(_Candidate(position, *convert(row, source, config, require_response)))
        except BadRowError as error:
            bad.append(BadRow(source, str(error)))
    if not good:
        first = f"; the first, {bad[0].source}: {bad[0].reason}" if bad else ""
        raise TutelageError(f"{key}: no usable row among the {total} of `{config.path}`{first}")
    check_bad_rows(key, bad, total, config.max_bad_rows)
    named = _name(key, good, config.id)
    return LoadedData(
        conversations=tuple(_subset(key, named, config)),
        bad_rows=tuple(bad),
        total=total,
        fingerprint=_data_fingerprint(config, versions, require_response),
    )


def declared_fingerprint(name: str, config: DataConfig, base: Path, require_response: bool = True) -> str:
    """The fingerprint of a data section without reading rows: local files are hashed, hub sets count as name@revision.

    For local files it is the one that `load_dataset` gives; a hub set is not reached for.
    """
    key = name if name.startswith("data.") else f"data.{name}"
    versions: list[str] = []
    for path in [config.path] if isinstance(config.path, str) else config.path:
        found = _resolve(key, path, base)
        if isinstance(found, str):
            versions.append(f"hub:{found}@{config.revision or 'main'}")
        else:
            versions += [hash_file(file) for file in found]
    return _data_fingerprint(config, versions, require_response)


def local_files(name: str, config: DataConfig, base: Path) -> list[Path] | None:
    """The files of a data section, or None where it names a hub set."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    files: list[Path] = []
    for path in paths:
        found = _resolve(f"data.{name}", path, base)
        if isinstance(found, str):
            return None
        files += found
    return files


def _data_fingerprint(config: DataConfig, versions: list[str], require_response: bool) -> str:
    return fingerprint(config.content("max_bad_rows"), versions, require_response)


def check_bad_rows(key: str, bad: list[BadRow], total: int, allowed: float) -> None:
    """Raise TutelageError when more than the share `allowed` of `total` rows is bad."""
    share = len(bad) / total
    if share <= allowed:
        return
    first = "; ".join(f"{row.source}: {row.reason}" for row in bad[:3])
    raise TutelageError(
        f"{key}: {len(bad)} of {total} rows are bad ({share:.1%}, allowed {allowed:.1%}): {first}; "
        f"mend them or raise `{key}.max_bad_rows` to {math.ceil(share * 1000) / 1000}"
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _rows(key: str, config: DataConfig, base: Path, versions: list[str]) -> Iterator[tuple[str, Any]]:
    """(source, row) of every path in order; adds a hash of each file or hub set to `versions`."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    if not paths:
        raise TutelageError(f"{key}.path: the list is empty; name at least one file or hub data set")
    resolved = [_resolve(key, path, base) for path in paths]
    files = [file for item in resolved if not isinstance(item, str) for file in item]
    labels = {file: file.name for file in files}
    if len(set(labels.values())) < len(labels):  # a/train.jsonl and b/train.jsonl: keep as much as tells them apart
        labels = {file: os.path.relpath(file, os.path.commonpath(files)) for file in files}
    for item in resolved:
        if isinstance(item, str):
            yield from _read_hub(key, item, config, versions)
            continue
        for file in item:
            versions.append(hash_file(file))
            yield from _read_file(key, file, labels[file])


def _resolve(key: str, written: str, base: Path) -> list[Path] | str:
    """The files that a path stands for, or the hub name as it is."""

    def value_of(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable not in os.environ:
            raise TutelageError(f"{key}.path: the variable ${variable} in `{written}` is not set; export it first")
        return os.environ[variable]

    text = os.path.expanduser(_VARIABLE.sub(value_of, written))
    path = Path(os.path.abspath(base / text))  # an absolute path wins over base
    if glob.has_magic(text) and not path.exists():
        found = sorted(Path(os.path.abspath(base / file)) for file in glob.glob(text, root_dir=base, recursive=True))
        if not found:
            raise TutelageError(f"{key}.path: no file matches `{written}` (looked for {path})")
    elif path.exists() or text.endswith(SUFFIXES) or text.startswith((".", "/")):
        found = [path]
        if path.is_dir():
            raise TutelageError(f"{key}.path: `{written}` is a folder; name its files, for example {written}/*.jsonl")
        if not path.exists():
            raise TutelageError(f"{key}.path: no file `{written}` (looked for {path}); mend the path")
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
    """The rows of a file that is one list, or one object with one list among its values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            value = json.loads(handle.read())
    except json.JSONDecodeError as error:
        hint = "; a file of one object a line should be called .jsonl" if error.msg == "Extra data" else "; mend it"
        raise TutelageError(f"{key}.path: broken JSON at {file}:{error.lineno}: {error.msg}{hint}") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
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
    except Exception as error:  # the hub client raises its own, HTTP's, the system's and plain ValueErrors
        if isinstance(error, ConnectionError) or "offline" in str(error).lower():
            advice = "check the network, load it once while online, or name local files"
        else:
            advice = f"check the name, `{key}.split`, `{key}.revision` and that you may read it, or name local files"
        raise TutelageError(
            f"{key}.path: `{written}` is no local file and cannot be loaded from the hub: {_one_line(error)}; {advice}"
        ) from error
    loaded = cast(datasets.Dataset, loaded)
    versions.append(loaded._fingerprint)
    for index, row in enumerate(loaded):
        yield f"{written}:{index}", row


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# --- the whole set ---------------------------------------------------------------------------------------------------


def _name(key: str, good: list[_Candidate], column: str | None) -> list[_Candidate]:
    """Give every conversation its id: the column asked for, else the first usual column that is unique, else source."""
    if column is None:
        for usual in ID_COLUMNS:
            values = {row.names[usual] for row in good if usual in row.names}
            if len(values) == len(good):
                return [_with_id(row, row.names[usual]) for row in good]
        if len({row.conversation.source for row in good}) < len(good):
            raise TutelageError(
                f"{key}.path: names one file or hub data set twice, which doubles its rows; name it once"
            )
        return [_with_id(row, row.conversation.source) for row in good]
    counts = Counter(row.names[column] for row in good)
    doubled = [value for value, count in counts.items() if count > 1]
    if doubled:
        raise TutelageError(
            f"{key}.id: {len(doubled)} values of column `{column}` name more than one row: {', '.join(doubled[:3])}; "
            "make them unique, or leave the key out to name rows by file and line"
        )
    return [_with_id(row, row.names[column]) for row in good]


def _with_id(row: _Candidate, id: str) -> _Candidate:
    return replace(row, conversation=replace(row.conversation, id=id))


def _subset(key: str, good: list[_Candidate], config: DataConfig) -> list[Conversation]:
    """`size` rows after `skip` of an order that depends on the seed and each row's position alone, hence nested."""
    if config.size is None and config.skip == 0:
        return [row.conversation for row in good]
    left = len(good) - config.skip
    wanted = left if config.size is None else config.size
    if wanted < 1 or wanted > left:
        raise TutelageError(
            f"{key}.size: {config.size or 'the rest'} after `skip: {config.skip}` is more than there is: "
            f"{len(good)} usable rows; lower `size` or `skip`"
        )
    ordered = sorted(good, key=lambda row: hashlib.blake2b(f"{config.seed}:{row.position}".encode()).digest())
    return [row.conversation for row in ordered[config.skip : config.skip + wanted]]
