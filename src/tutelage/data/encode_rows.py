"""Whole data sections as token sequences, with counts of all that was cut, left out or not read.

Of large data the sequences are made once, by several processes, and kept in files (`data/large/`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.common.errors import NAMED, TutelageError, listed
from tutelage.common.hashing import fingerprint
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.chat_template import ChatTemplate, Part, PromptTooLongError, RenderError
from tutelage.data.columns import BadRow, reasons
from tutelage.data.dataset import LoadedData, check_bad_rows
from tutelage.data.large.made import made
from tutelage.data.large.stored import StoredRows, cut_of, indices_of
from tutelage.data.left_out import beside_texts, left_out

_CALL = 500  # rows per tokenizer call
_KEPT = NAMED + 1  # places of which `listed` needs to know


@dataclass(frozen=True)
class EncodingReport:
    """What `encode_all` cut, left out or split."""

    cut: int  # sequences whose response was cut at the length limit
    too_long: tuple[str, ...]  # sources of the rows left out because no response token fits
    last_turns_cut: tuple[str, ...]  # sources of the rows whose last assistant turn does not fit
    refused: tuple[BadRow, ...]  # rows that the chat template cannot render
    split: tuple[int, int]  # rows that are several sequences, and how many those are (`ChatTemplate.parts`)
    rendered: dict[str, int]  # what rows carry beside texts and the sequences have, and in how many rows
    left_out: dict[str, int]  # what rows carry and no sequence has, in words, and in how many rows
    places: dict[str, list[str]]  # the sources of the first of those rows


@dataclass
class _Found:
    """What some rows gave beside their sequences."""

    too_long: list[BadRow] = field(default_factory=list)
    last_turns_cut: list[str] = field(default_factory=list)
    refused: list[BadRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    rendered: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """What `add` takes."""
        rows = {name: [vars(row) for row in getattr(self, name)] for name in ("too_long", "refused")}
        counts = {"left_out": dict(self.left_out), "rendered": dict(self.rendered)}
        return {**rows, **counts, "last_turns_cut": self.last_turns_cut, "places": self.places}

    def missing(self, source: str, what: Collection[str]) -> None:
        """Count what one row carries and no sequence has."""
        self.left_out.update(what)
        for one in what:
            named = self.places.setdefault(one, [])
            named += [source] * (len(named) < _KEPT)

    def add(self, part: dict[str, Any]) -> None:
        """Add what later rows gave."""
        self.too_long += [BadRow(**row) for row in part["too_long"]]
        self.refused += [BadRow(**row) for row in part["refused"]]
        self.last_turns_cut += part["last_turns_cut"]
        self.left_out.update(part["left_out"])
        self.rendered.update(part["rendered"])
        for what, sources in part["places"].items():
            self.places[what] = [*self.places.get(what, ()), *sources][:_KEPT]


@dataclass(frozen=True)
class _Encode:
    """The work of `encode_all`, which several processes may share."""

    template: ChatTemplate
    rows: Sequence[Conversation]
    max_length: int

    def part(self, start: int, stop: int) -> tuple[list[TokenSequence], dict[str, Any]]:
        """The sequences of the rows from `start` to before `stop`, and what `_Found.add` takes."""
        found, out = _Found(), []
        for first in range(start, stop, _CALL):
            out += self._call(range(first, min(first + _CALL, stop)), found)
        return out, found.as_json()

    def _call(self, places: range, found: _Found) -> list[TokenSequence]:
        template, rows, out = self.template, dict(zip(places, self.rows[places.start : places.stop], strict=True)), []
        rendered = dict(_rendered(template, rows, found))
        parts = [part for sequences in rendered.values() for one in sequences for part in one]
        tokens = iter(template.tokens(parts) if parts else [])
        for index, sequences in rendered.items():
            row = rows[index]
            try:
                out += template.sequences(sequences, row, index, self.max_length, tokens)
            except PromptTooLongError as error:
                found.too_long.append(bad_row(row, error))
                continue
            if out[-1].cut and out[-1].turns[-1] != _last(row):
                found.last_turns_cut.append(row.source)
        return out


def encode_all(
    template: ChatTemplate, data: LoadedData, max_length: int, max_bad_rows: float = 0.01, key: str = "data"
) -> tuple[Sequence[TokenSequence], EncodingReport]:
    """Encode every conversation; `index` is its position in `data.conversations`.

    Rows that the template cannot render, and rows whose prompt leaves no room for a response within `max_length`
    tokens, are left out and listed. Raises TutelageError if their share exceeds `max_bad_rows` (`key` names the data
    section in the message), or if no row is left.
    """
    rows, work = data.conversations, _Encode(template, data.conversations, max_length)
    name = ""
    if isinstance(rows, StoredRows):
        name = fingerprint(data.fingerprint, template.fingerprint, max_length)
    out, parts = made(work, len(rows), name, key)
    found = _Found()
    for part in parts:
        found.add(part)
    bad = [*found.refused, *found.too_long]
    check_bad_rows(key, bad, len(rows), max_bad_rows)
    if not out:
        raise TutelageError(f"{key}: no row fits: {bad[0].source}: {bad[0].reason}" if bad else f"{key}: has no rows")
    return out, EncodingReport(
        cut=int(cut_of(out).sum()),
        too_long=tuple(row.source for row in found.too_long),
        last_turns_cut=tuple(found.last_turns_cut),
        refused=tuple(found.refused),
        split=split_rows(out),
        rendered=dict(sorted(found.rendered.items())),
        left_out=dict(sorted(found.left_out.items())),
        places=found.places,
    )


def split_rows(sequences: Sequence[TokenSequence]) -> tuple[int, int]:
    """How many rows are several sequences, and how many sequences those are."""
    _, counts = np.unique(indices_of(sequences), return_counts=True)
    several = counts[counts > 1]
    return len(several), int(several.sum())


def notes(report: EncodingReport) -> list[str]:
    """What a user should know before training, one line each; none if the sequences have all that the rows carry."""
    out = []
    if report.left_out:
        out.append(_counted(report.left_out, report.places))
    if report.split[0]:
        out.append(
            f"{report.split[0]} rows are {report.split[1]} sequences, since the chat template renders earlier turns "
            "differently: each assistant turn is learnt as the model is prompted for it"
        )
    if report.refused:
        count = len(report.refused)
        out.append(f"{count} row{'s' * (count > 1)} left out: {reasons(report.refused)}")
    return out


def prompt_notes(template: ChatTemplate, conversations: Sequence[Conversation]) -> list[str]:
    """As `notes`, of the conversations' prompts. Raises RenderError for one that the template cannot render."""
    found = _Found()
    for row in conversations:
        found.missing(row.source, left_out(template, row))
    return [_counted(dict(sorted(found.left_out.items())), found.places)] if found.left_out else []


def _counted(found: dict[str, int], places: dict[str, list[str]]) -> str:
    said = (in_rows(what, rows, listed(places[what], count=rows)) for what, rows in found.items())
    return "left out or changed: " + "; ".join(said)


def in_rows(what: str, rows: int, places: str = "") -> str:
    """`what` with the number of its rows, and where they are."""
    return f"{what} in {rows:,} row{'s' * (rows != 1)}" + (f" ({places})" if places else "")


def messages_asked(conversation: Conversation, sequence: TokenSequence) -> tuple[Message, ...]:
    """The messages before the last assistant turn of `sequence`, which may be cut: what `ids[:prompt_length]` says.

    For a conversation cut at the length limit this is an earlier question than `conversation.prompt`.
    """
    return conversation.messages[: sequence.turns[-1]]


def bad_row(conversation: Conversation, error: Exception) -> BadRow:
    """The row as a bad one, for the reason that the error gives."""
    return BadRow(conversation.source, str(error).removeprefix(f"{conversation.source}: "))


def _rendered(
    template: ChatTemplate, rows: dict[int, Conversation], found: _Found
) -> Iterator[tuple[int, list[list[Part]]]]:
    """The parts of each row by its position; counts what they leave out and what they keep beside texts."""
    for index, row in rows.items():
        try:
            sequences = template.conversation_parts(row)
        except RenderError as error:
            found.refused.append(bad_row(row, error))
            continue
        missing = left_out(template, row, sequences)
        found.missing(row.source, missing)
        found.rendered.update(
            f"`{key}`" for key in beside_texts(row) if not any(f"`{key}`" in text for text in missing)
        )
        yield index, sequences


def _last(conversation: Conversation) -> int:
    """The position of the last assistant turn that carries loss."""
    return max(k for k, message in enumerate(conversation.messages) if message.role == "assistant" and message.train)
