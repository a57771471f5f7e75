"""Reading rows from local files, globs and hub data sets."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, one_line
from tutelage.common.files import hash_file
from tutelage.common.run_folder import what_is
from tutelage.data.formats import json_text, tables
from tutelage.data.formats.beginning import refuse_other_content
from tutelage.recipe.sections import DataConfig

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".arrow", ".csv", ".tsv")
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
_DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")  # beside saved data
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])")
UNREACHABLE = "which cannot be reached: check the network (and HF_HUB_OFFLINE), load it once while online"
_SECONDS = 10  # until the hub must have answered
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def paths_of(config: DataConfig) -> list[str]:
    """The paths and hub names of a data section, which may be written as one text or as a list."""
    return [config.path] if isinstance(config.path, str) else config.path


def short_name(config: DataConfig) -> str:
    """What a section's rows are read from, in words: files without their folders, folders and hub names whole."""
    return ", ".join(Path(path).name if Path(path).suffix else path for path in paths_of(config))


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


def odd_separators(config: DataConfig, folder: Path) -> list[str]:
    """What separates the columns of local tables where that is not what their names say, in words."""
    found: dict[str, list[str]] = {}
    for path in paths_of(config):
        files = resolve_sources("", path, folder)
        for file in [] if isinstance(files, str) else [one for one in files if one.suffix in (".csv", ".tsv")]:
            if (separator := tables.separator_of(file)) != tables.usual_separator(file):
                found.setdefault(tables.SEPARATORS.get(separator, f"`{separator}`"), []).append(file.name)
    return [f"{', '.join(names)}: read as separated by {separator}" for separator, names in found.items()]


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

    Raises TutelageError, with `key` as the place, for sources that cannot be read. An empty `key`: there is no recipe.
    """
    paths = paths_of(config)
    if not paths:
        raise TutelageError(f"{_place(key)}the list is empty; name at least one file or hub data set")
    sources = [resolve_sources(key, path, folder) for path in paths]
    for name, default in (("split", "train"), ("revision", None)):
        if getattr(config, name) != default and not any(isinstance(source, str) for source in sources):
            raise TutelageError(
                f"{key}.{name}: is for data sets of the hub, and `path` names local files: remove `{name}`"
            )
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


def _place(key: str) -> str:
    """How messages on a section's sources begin; without a recipe (`key` is empty) they name the file alone."""
    return f"{key}.path: " if key else ""


def _unchanged(key: str, file: Path, label: str, before: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    """The rows of a file. Raises TutelageError if it is then not as it was `before`."""
    yield from read_file(_place(key), file, label)
    if _state(file) != before:
        raise TutelageError(
            f"{_place(key)}{file} changed while it was read: wait until it is written, and run the same command"
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
            raise TutelageError(f"{_place(key)}the variable ${variable} in `{written}` is not set; export it first")
        return os.environ[variable]

    text = os.path.expanduser(_VARIABLE.sub(value_of, written))
    if "://" in text:
        raise TutelageError(f"{_place(key)}`{written}` is an address: download the file, and name it where it then is")
    path = Path(os.path.abspath(folder / text))  # an absolute path ignores the folder
    if glob.has_magic(text) and not path.exists():
        matches = glob.glob(text, root_dir=folder, recursive=True)
        found = sorted(Path(os.path.abspath(folder / file)) for file in matches)
        if not found:
            raise TutelageError(f"{_place(key)}no file matches `{written}` (looked for {path}); correct the path")
    elif path.exists() or text.endswith(SUFFIXES) or text.startswith((".", "/")):
        found = _files_of_folder(key, path, written) if path.is_dir() else [path]
        if not path.exists():
            raise TutelageError(f"{_place(key)}no file `{written}` (looked for {path}); correct the path")
    else:
        return text
    for file in found:
        if not file.name.endswith(SUFFIXES):
            advice = "; save the table as CSV" if file.suffix in _SHEETS else ""
            raise TutelageError(f"{_place(key)}cannot read {file}; the formats are {', '.join(SUFFIXES)}{advice}")
    return found


def _files_of_folder(key: str, folder: Path, written: str) -> list[Path]:
    """The data files of a folder, which must be of one format and one split; TutelageError says what to write."""
    if what := what_is(folder):
        raise TutelageError(f"{_place(key)}`{written}` is {what}, and no data: name a file with your rows")
    files = sorted(f for f in folder.iterdir() if f.name.endswith(SUFFIXES) and f.name not in _DESCRIPTIONS)
    kinds = sorted({f".{file.name.partition('.')[2]}" for file in files})
    splits = sorted({match[1] for file in files if (match := _SPLIT.match(file.name))})
    inside = sorted({file.parent.name for suffix in SUFFIXES for file in folder.glob(f"*/*{suffix}")})
    if not files and inside:
        raise TutelageError(
            f"{_place(key)}`{written}` is a folder of folders ({', '.join(inside)}); name one: {written}/{inside[0]}"
        )
    if not files:
        raise TutelageError(
            f"{_place(key)}the folder `{written}` has no data file ({', '.join(SUFFIXES)}): name one, or another folder"
        )
    if len(splits) > 1:
        raise TutelageError(
            f"{_place(key)}the folder `{written}` has several splits ({', '.join(splits)}); name the files of one: "
            f"{written}/{splits[0]}*"
        )
    if len({kind.removesuffix(".gz") for kind in kinds}) > 1:
        raise TutelageError(
            f"{_place(key)}the folder `{written}` has files of several formats ({', '.join(kinds)}); name those of "
            f"one: {written}/*{kinds[0]}"
        )
    return files


def read_file(place: str, file: Path, label: str) -> Iterator[tuple[str, Any]]:
    """(source, row) of one file, whose rows are named `label`. `place` begins messages, which name a file below the
    working folder from there; otherwise as `read_rows`."""
    with suppress(ValueError, OSError):
        file = file.relative_to(Path.cwd())
    refuse_other_content(place, file)
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        yield from json_text.read_lines(place, file, label)
    elif file.name.endswith((".csv", ".tsv")):
        yield from tables.read_csv(place, file, label)
    else:
        readers = {".parquet": tables.read_parquet, ".arrow": tables.read_arrow}
        for number, row in enumerate(readers.get(file.suffix, json_text.read_whole)(place, file), start=1):
            yield f"{label}:{number}", row


def _load_hub(key: str, written: str, config: DataConfig) -> Any:
    import datasets

    path, _, configuration = written.partition(":")
    try:
        with hub_asked_once():
            return datasets.load_dataset(path, configuration or None, split=config.split, revision=config.revision)
    except Exception as error:  # the client raises its own errors, HTTP and system errors, and ValueError
        what = f"{_place(key)}`{written}` is not a local file and cannot be loaded from the hub"
        if is_unreachable(error):
            raise TutelageError(f"{what}, {UNREACHABLE}, or name local files") from error
        keys = f", `{key}.split`, `{key}.revision`" if key else ""
        raise TutelageError(
            f"{what}: {one_line(error)}; check the name{keys} and your access rights, or name local files"
        ) from error


def is_unreachable(error: Exception) -> bool:
    """Whether an error of the hub's clients says that it does not answer."""
    return isinstance(error, ConnectionError) or "offline" in str(error).lower()


@contextmanager
def hub_asked_once() -> Iterator[None]:
    """Within the block a hub that cannot be reached is asked no more, so that its clients take what their caches have:
    they would ask it six times, for half a minute."""
    from datasets import config
    from huggingface_hub import constants, get_session

    reached = not constants.HF_HUB_OFFLINE
    if reached:
        try:
            get_session().head(constants.ENDPOINT, timeout=_SECONDS)
        except Exception:  # those of requests or of httpx, by the version of the hub's client
            reached = False
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    if not reached:
        constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def _hub_rows(written: str, loaded: Any) -> Iterator[tuple[str, Any]]:
    for index, row in enumerate(loaded):
        yield f"{written}:{index}", tables.as_written(row)
