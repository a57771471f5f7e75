"""Loading a data section: read rows from files or the hub, check them, name them, and take a seeded subset.

A bad row is never silently dropped: it is listed as (source, reason), and too many of them stop the run.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.errors import TutelageError, listed
from tutelage.common.files import hash_file
from tutelage.common.hashing import fingerprint, keyed_integer
from tutelage.common.types import Conversation
from tutelage.data.columns import BadRow, BadRowError, columns_of, find_value, lack_answers, reasons
from tutelage.data.large import kept
from tutelage.data.large.stored import IDS, ROWS, StoredRows, write_ids, write_rows
from tutelage.data.rows import ID_COLUMNS, convert
from tutelage.data.sources import open_rows, paths_of, resolve_sources
from tutelage.recipe.sections import DataConfig


@dataclass(frozen=True)
class LoadedData:
    """The conversations of a data section, and what was left out."""

    conversations: Sequence[Conversation]  # in file order, or in the seeded order with `size` or `skip`
    bad_rows: tuple[BadRow, ...]  # of everything read, not only of the subset
    total: int  # rows read, with the bad ones, before the subset is taken
    fingerprint: str
    repeated: tuple[str, ...] = ()  # rows that `distinct` left out: where each is, and what it repeats


@dataclass
class _Read:
    """What was read of a section, before a subset is taken."""

    conversations: Sequence[Conversation]
    positions: Iterable[int]  # among all rows read, so that fixing a bad row does not reshuffle the others
    bad: list[BadRow]
    total: int
    repeated: list[str]


def load_dataset(name: str, config: DataConfig, folder: Path, require_response: bool = True) -> LoadedData:
    """Load the data section `name` of a recipe; relative paths start at `folder`, the recipe file's folder.

    `require_response=False` also accepts rows that end in a user turn (bare prompts for evaluation). A hub name may
    have its configuration after a colon (`openai/gsm8k:main`). An empty `name`: the section is of no recipe, and
    messages speak of files and options.

    Raises TutelageError for missing files, an unreachable hub, duplicate ids, more bad rows than `max_bad_rows`, and a
    subset larger than the data.
    """
    key = f"data.{name}" if name else ""
    if config.completion is not None and config.prompt is None:
        raise TutelageError(f"{key}.completion: a template for the completion needs one for `{key}.prompt` too")
    for part in ("prompt", "completion", "text"):
        template = getattr(config, part)
        if template is not None and not columns_of(template) and (part != "prompt" or "{" in template):
            where = f"{key}.{part}" if key else f"--{part}"
            raise TutelageError(
                f"{where}: the template `{template}` names no column, so all rows would be the same: write "
                "`{column}` where a column's value belongs"
            )
    versions, rows = open_rows(key, config, folder)
    read = _kept_or_read(key, config, versions, rows, require_response)
    check_bad_rows(key, read.bad, read.total, config.max_bad_rows)
    return LoadedData(
        conversations=_subset(key, read, config),
        bad_rows=tuple(read.bad),
        total=read.total,
        fingerprint=_data_fingerprint(config, versions, require_response),
        repeated=tuple(read.repeated),
    )


def questions_of(rows: Sequence[Conversation]) -> list[int]:
    """A number per row that is not plain text, equal for equal questions."""
    return rows.questions if isinstance(rows, StoredRows) else [_question(row) for row in rows if not row.plain]


def _question(row: Conversation) -> int:
    """Not negative."""
    return keyed_integer(*(text for message in row.prompt for text in (message.role, message.content)))


def _kept_or_read(
    key: str, config: DataConfig, versions: list[str], rows: Iterator[tuple[str, Any]], require_response: bool
) -> _Read:
    """The rows of a section: large ones from the cache, where they are put when they are first read."""
    name = "rows-" + fingerprint(
        kept.code_version(), config.content("max_bad_rows", "size", "skip", "seed", "order"), versions, require_response
    )
    folder = kept.find(name)
    if folder is None:
        reader = _Reader(key, config, require_response, rows)
        first = list(islice(reader, kept.LARGE))
        if len(first) < kept.LARGE:
            check_bad_rows(key, reader.bad, reader.total, config.max_bad_rows)
            ids = _ids(key, reader, config.id)
            named = [replace(row, id=id) for row, id in zip(first, ids, strict=True)]
            return _Read(named, reader.positions, reader.bad, reader.total, reader.repeated)

        def write(partial: Path) -> dict[str, Any]:
            write_rows(partial / ROWS, chain(first, reader))
            check_bad_rows(key, reader.bad, reader.total, config.max_bad_rows)
            ids = _ids(key, reader, config.id)
            write_ids(partial / IDS, ids, reader.positions, reader.questions, reader.asked)
            bad = [[row.source, row.reason] for row in reader.bad]
            return {"bad": bad, "total": reader.total, "repeated": reader.repeated}

        folder = kept.make(name, key or "the rows", write)
    found, stored = kept.about(folder), StoredRows(folder)
    bad = [BadRow(*row) for row in found["bad"]]
    return _Read(stored, stored.positions, bad, found["total"], found["repeated"])


class _Reader:
    """The usable rows of a section as conversations without ids, one by one, and what was seen on the way."""

    def __init__(self, key: str, config: DataConfig, require_response: bool, rows: Iterator[tuple[str, Any]]) -> None:
        self.key, self.config, self.require_response, self.rows = key, config, require_response, rows
        self.bad: list[BadRow] = []
        self.repeated: list[str] = []
        self.total = 0
        # of the usable rows, in order
        self.sources: list[str] = []
        self.positions: list[int] = []
        self.questions: list[int] = []  # as in `questions_of`; −1 for plain text
        self.asked: list[int] = []
        self.names: list[Mapping[str, str]] = []  # id column → value
        self._conversations = self._read()

    def __iter__(self) -> Iterator[Conversation]:
        return self._conversations

    def _read(self) -> Iterator[Conversation]:
        """Raises TutelageError at the end, if no row is usable, or none has the column of an optional piece."""
        config, key = self.config, self.key
        templates = [text for text in (config.prompt, config.completion, config.text, config.system) if text]
        optional = {column for text in templates for column in columns_of(text, optional=True)}
        wholes: dict[int, str] = {}  # a number per row, equal for equal rows → the first of them
        for position, (source, row) in enumerate(self.rows):
            self.total = position + 1
            try:
                if isinstance(row, BadRow):
                    raise BadRowError(row.reason)
                if optional and isinstance(row, dict):
                    optional -= {column for column in optional if find_value(column, row)[1] is None}
                conversation, names = convert(row, source, config, self.require_response)
            except BadRowError as error:
                self.bad.append(BadRow(source, str(error)))
                continue
            if config.distinct and (first := wholes.setdefault(_whole(conversation), source)) != source:
                self.repeated.append(_repeats(source, first))
                continue
            self.sources.append(source)
            self.positions.append(position)
            self.questions.append(-1 if conversation.plain else _question(conversation))
            self.asked.append(_asked(conversation))
            self.names.append(names)
            yield conversation
        if optional and self.total:
            raise TutelageError(
                f"{_at(key)}no row has the column `{min(optional)}`, which a template has between `{{?` and `?}}`: "
                "correct its name"
            )
        if not self.sources:
            bad = self.bad
            first = f"; the first, {bad[0].source}: {bad[0].reason}" if bad else ""
            raise TutelageError(f"{_at(key)}no usable row among the {self.total} of `{config.path}`{first}")


def _at(key: str) -> str:
    """How a message on a section begins."""
    return f"{key}: " if key else ""


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
    count = len(data.bad_rows)
    are = "rows is" if count == 1 else "rows are"
    return [f"{count} of {data.total} {are} bad and left out: {reasons(data.bad_rows)}"]


def repeated_note(data: LoadedData) -> list[str]:
    """One line about the rows that `distinct` left out, if there are any."""
    count = len(data.repeated)
    what = "is an exact repetition" if count == 1 else "are exact repetitions"
    of = f"{count:,} of {data.total:,} {'rows' if data.total > 1 else 'row'}"
    return [f"{of} {what} and left out: {listed(data.repeated)}"] if count else []


def exact_repetitions(rows: Sequence[Conversation]) -> dict[str, str]:
    """The sources of rows that repeat an earlier one exactly, each with what it repeats, in words."""
    wholes: dict[int, str] = {}
    firsts = ((row.source, wholes.setdefault(_whole(row), row.source)) for row in rows)
    return {source: _repeats(source, first) for source, first in firsts if first != source}


def _repeats(source: str, first: str) -> str:
    return f"{source} (it repeats {first})"


def _whole(row: Conversation) -> int:
    """A number, equal for rows that are equal but for their place."""
    turns = [(m.role, m.content, m.train, m.extra, m.tools) for m in row.messages]
    return keyed_integer(repr((turns, row.references)))


def repetitions(rows: Sequence[Conversation]) -> list[str]:
    """Lines that name rows which repeat an earlier one, and rows which ask what one asks and answer otherwise."""
    again, otherwise, asked = exact_repetitions(rows), list[str](), dict[str, str]()
    for row in rows:
        question = asked_text(row)
        if row.source not in again and question and question in asked:
            otherwise.append(f"{row.source} (it asks what {asked[question]} asks)")
        asked.setdefault(question, row.source)
    found = []
    if again:
        what = "row is an exact repetition and counts" if len(again) == 1 else "rows are exact repetitions and count"
        found.append(f"{len(again):,} {what} twice: remove {listed([*again.values()])}, or set `distinct: true`")
    if otherwise:
        what = "row answers an earlier row's question" if len(otherwise) == 1 else "rows answer earlier rows' questions"
        found.append(f"{len(otherwise):,} {what} otherwise: keep the right answer: {listed(otherwise)}")
    return found


def asked_text(row: Conversation) -> str:
    """The prompt without its system turn, which many rows share."""
    return "\n".join(" ".join(m.content.split()) for m in row.prompt if m.role != "system")


def check_bad_rows(key: str, bad: list[BadRow], total: int, allowed: float) -> None:
    """Raise TutelageError if more than the share `allowed` of `total` rows is bad; `key` names the data section."""
    share = len(bad) / total
    if share <= allowed:
        return
    more = " (a teacher can write more: docs/synthetic.md)" if lack_answers(bad) else ""
    raise TutelageError(
        f"{key}: {len(bad)} of {total} rows are bad ({share:.1%}, allowed {allowed:.1%}): {reasons(bad)}; "
        f"fix them{more} or raise `{key}.max_bad_rows` to {math.ceil(share * 1000) / 1000}"
    )


def _ids(key: str, read: _Reader, column: str | None) -> list[str]:
    """An id per conversation: from `column`, or the first usual column with unique values, or its source."""
    names = read.names
    if column is None:
        for usual in ID_COLUMNS:
            if len({row[usual] for row in names if usual in row}) == len(names):
                return [row[usual] for row in names]
        if len(set(read.sources)) < len(names):
            raise TutelageError(
                f"{_at(key and f'{key}.path')}one file or hub data set is named twice, which doubles its rows; name it "
                "once"
            )
        return read.sources
    counts = Counter(row[column] for row in names)
    duplicates = [value for value, count in counts.items() if count > 1]
    if duplicates:
        raise TutelageError(
            f"{key}.id: {len(duplicates)} values of column `{column}` name more than one row: "
            f"{listed(duplicates)}; make them unique, or leave the key out to name rows by file and line"
        )
    return [row[column] for row in names]


def _subset(key: str, read: _Read, config: DataConfig) -> Sequence[Conversation]:
    """`size` rows after `skip` rows, in an order that depends only on the seed and each row's position or question.

    So subsets of one seed are nested.
    """
    rows = read.conversations
    if config.size is None and config.skip == 0:
        return rows if isinstance(rows, StoredRows) else tuple(rows)
    left = len(rows) - config.skip
    wanted = left if config.size is None else config.size
    if wanted < 1 or wanted > left:
        raise TutelageError(
            f"{key}.size: {config.size or 'the rest'} after `skip: {config.skip}` is more than there is: "
            f"{len(rows)} usable rows; lower `size` or `skip`"
        )
    if config.order == "question":
        ordered = _question_order(_asked_of(rows), config.seed, [config.skip, config.skip + wanted])[1]
        if not ordered:
            raise TutelageError(
                f"{key}.order: no row is left for this section: `question` keeps rows that ask the same together, and "
                "too many do; raise `size`, or use `position`"
            )
    else:
        drawn = [_drawn(config.seed, position) for position in read.positions]
        ordered = sorted(range(len(rows)), key=drawn.__getitem__)[config.skip : config.skip + wanted]
    if isinstance(rows, StoredRows) and wanted >= kept.LARGE:
        return StoredRows(rows.folder, np.array(ordered))
    return tuple(rows[place] for place in ordered)


def question_slices(rows: Sequence[Conversation], sizes: Sequence[int]) -> list[int] | None:
    """How many rows sections of these sizes have, one after the other, in the order of `question`, and how many are
    left; None where so many rows ask the same that a section would be less than half or more than twice as long."""
    parts = _question_order(_asked_of(rows), 0, list(accumulate(sizes)))
    found, wanted = [len(part) for part in parts], [*sizes, len(rows) - sum(sizes)]
    return found if all(size <= 2 * has <= 4 * size for size, has in zip(wanted, found, strict=True)) else None


def _question_order(asked: Sequence[int], seed: int, ends: Sequence[int]) -> list[list[int]]:
    """The places of all rows in the seeded order of what they ask, cut at `ends`: one part more than these. Rows that
    ask the same are never parted: an end between two of them is after all of them."""
    drawn = [_drawn(seed, question) for question in asked]
    ordered = sorted(range(len(asked)), key=drawn.__getitem__)
    moved = [0]
    for end in ends:
        while 0 < end < len(ordered) and drawn[ordered[end]] == drawn[ordered[end - 1]]:
            end += 1
        moved.append(end)
    return [ordered[start:end] for start, end in pairwise([*moved, len(ordered)])]


def _drawn(seed: int, what: int) -> bytes:
    """Not `keyed_integer`: finished runs depend on this order."""
    return hashlib.blake2b(f"{seed}:{what}".encode()).digest()


def _asked_of(rows: Sequence[Conversation]) -> Sequence[int]:
    return rows.asked if isinstance(rows, StoredRows) else [_asked(row) for row in rows]


def _asked(row: Conversation) -> int:
    """A number, equal for rows that ask the same but for spaces and the system turn; of plain text, for equal ones."""
    return keyed_integer(repr(row.messages[0].content if row.plain else asked_text(row)))
