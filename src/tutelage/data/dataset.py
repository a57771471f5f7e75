"""Loading a data section: read rows from files or the hub, check them, name them, and take a seeded subset.

A bad row is never silently dropped: it is listed as (source, reason), and too many of them stop the run.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.files import hash_file
from tutelage.common.hashing import fingerprint
from tutelage.common.types import Conversation
from tutelage.data.columns import BadRow, BadRowError, columns_of, find_value
from tutelage.data.rows import ID_COLUMNS, convert
from tutelage.data.sources import paths_of, read_rows, resolve_sources
from tutelage.recipe.sections import DataConfig


@dataclass(frozen=True)
class LoadedData:
    """The conversations of a data section, and what was left out."""

    conversations: tuple[Conversation, ...]  # in file order, or in the seeded order with `size` or `skip`
    bad_rows: tuple[BadRow, ...]  # of everything read, not only of the subset
    total: int  # rows read, with the bad ones, before the subset is taken
    fingerprint: str


@dataclass(frozen=True)
class _Candidate:
    position: int  # among all rows read, so that fixing a bad row does not reshuffle the others
    conversation: Conversation
    names: Mapping[str, str]  # id column → value


def load_dataset(name: str, config: DataConfig, folder: Path, require_response: bool = True) -> LoadedData:
    """Load the data section `name` of a recipe; relative paths start at `folder`, the recipe file's folder.

    `require_response=False` also accepts rows that end in a user turn (bare prompts for evaluation). A hub name may
    have its configuration after a colon (`openai/gsm8k:main`).

    Raises TutelageError for missing files, an unreachable hub, duplicate ids, more bad rows than `max_bad_rows`, and a
    subset larger than the data.
    """
    key = f"data.{name}"
    if config.completion is not None and config.prompt is None:
        raise TutelageError(f"{key}.completion: a template for the completion needs one for `{key}.prompt` too")
    for name in ("prompt", "completion", "text"):
        template = getattr(config, name)
        if template is not None and not columns_of(template) and (name != "prompt" or "{" in template):
            raise TutelageError(
                f"{key}.{name}: the template `{template}` names no column, so all rows would be the same: write "
                "`{column}` where a column's value belongs"
            )
    good: list[_Candidate] = []
    bad: list[BadRow] = []
    total = 0
    versions: list[str] = []
    templates = [text for text in (config.prompt, config.completion, config.text, config.system) if text]
    optional = {column for text in templates for column in columns_of(text, optional=True)}
    for position, (source, row) in enumerate(read_rows(key, config, folder, versions)):
        total = position + 1
        try:
            if isinstance(row, BadRow):
                raise BadRowError(row.reason)
            if optional and isinstance(row, dict):
                optional -= {column for column in optional if find_value(column, row)[1] is None}
            good.append(_Candidate(position, *convert(row, source, config, require_response)))
        except BadRowError as error:
            bad.append(BadRow(source, str(error)))
    if optional and total:
        raise TutelageError(
            f"{key}: no row has the column `{min(optional)}` of an optional piece `{{?…?}}`; correct it"
        )
    if not good:
        first = f"; the first, {bad[0].source}: {bad[0].reason}" if bad else ""
        raise TutelageError(f"{key}: no usable row among the {total} of `{config.path}`{first}")
    check_bad_rows(key, bad, total, config.max_bad_rows)
    named = _with_ids(key, good, config.id)
    return LoadedData(
        conversations=tuple(_subset(key, named, config)),
        bad_rows=tuple(bad),
        total=total,
        fingerprint=_data_fingerprint(config, versions, require_response),
    )


def declared_fingerprint(name: str, config: DataConfig, folder: Path, require_response: bool = True) -> str:
    """The fingerprint of a data section without reading its rows: files are hashed, a hub set counts as name@revision.

    For local files it equals that of `load_dataset`. The hub is not asked. Raises TutelageError for missing files.
    """
    key = f"data.{name}"
    versions: list[str] = []
    for path in paths_of(config):
        found = resolve_sources(key, path, folder)
        if isinstance(found, str):
            versions.append(f"hub:{found}@{config.revision or 'main'}")
        else:
            versions += [hash_file(file) for file in found]
    return _data_fingerprint(config, versions, require_response)


def _data_fingerprint(config: DataConfig, versions: list[str], require_response: bool) -> str:
    return fingerprint(config.content("max_bad_rows"), versions, require_response)


def bad_rows_note(data: LoadedData) -> list[str]:
    """One line about the bad rows of a section, if it has any."""
    if not data.bad_rows:
        return []
    first = data.bad_rows[0]
    return [f"{len(data.bad_rows)} of {data.total} rows are bad and left out, the first {first.source}: {first.reason}"]


def check_bad_rows(key: str, bad: list[BadRow], total: int, allowed: float) -> None:
    """Raise TutelageError if more than the share `allowed` of `total` rows is bad; `key` names the data section."""
    share = len(bad) / total
    if share <= allowed:
        return
    first = "; ".join(f"{row.source}: {row.reason}" for row in bad[:3])
    raise TutelageError(
        f"{key}: {len(bad)} of {total} rows are bad ({share:.1%}, allowed {allowed:.1%}): {first}; "
        f"fix them or raise `{key}.max_bad_rows` to {math.ceil(share * 1000) / 1000}"
    )


def _with_ids(key: str, good: list[_Candidate], column: str | None) -> list[_Candidate]:
    """Give every conversation its id: from `column`, or the first usual column with unique values, or its source."""
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
    duplicates = [value for value, count in counts.items() if count > 1]
    if duplicates:
        raise TutelageError(
            f"{key}.id: {len(duplicates)} values of column `{column}` name more than one row: "
            f"{', '.join(duplicates[:3])}; make them unique, or leave the key out to name rows by file and line"
        )
    return [_with_id(row, row.names[column]) for row in good]


def _with_id(row: _Candidate, id: str) -> _Candidate:
    return replace(row, conversation=replace(row.conversation, id=id))


def _subset(key: str, good: list[_Candidate], config: DataConfig) -> list[Conversation]:
    """`size` rows after `skip` rows, in an order that depends only on the seed and each row's position.

    So subsets of one seed are nested.
    """
    if config.size is None and config.skip == 0:
        return [row.conversation for row in good]
    left = len(good) - config.skip
    wanted = left if config.size is None else config.size
    if wanted < 1 or wanted > left:
        raise TutelageError(
            f"{key}.size: {config.size or 'the rest'} after `skip: {config.skip}` is more than there is: "
            f"{len(good)} usable rows; lower `size` or `skip`"
        )
    # Not `keyed_integer`: finished runs depend on this order.
    ordered = sorted(good, key=lambda row: hashlib.blake2b(f"{config.seed}:{row.position}".encode()).digest())
    return [row.conversation for row in ordered[config.skip : config.skip + wanted]]
