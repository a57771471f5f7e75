"""Whole data sections as token sequences, with counts of all that was cut, left out or not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.chat_template import ChatTemplate, Part, PromptTooLongError, RenderError
from tutelage.data.columns import BadRow
from tutelage.data.dataset import LoadedData, check_bad_rows
from tutelage.data.left_out import beside_texts, left_out


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


def encode_all(
    template: ChatTemplate, data: LoadedData, max_length: int, max_bad_rows: float = 0.01, key: str = "data"
) -> tuple[list[TokenSequence], EncodingReport]:
    """Encode every conversation; `index` is its position in `data.conversations`.

    Rows that the template cannot render, and rows whose prompt leaves no room for a response within `max_length`
    tokens, are left out and listed. Raises TutelageError if their share exceeds `max_bad_rows` (`key` names the data
    section in the message), or if no row is left.
    """
    from rich.console import Console
    from rich.progress import track

    rows, size = data.conversations, 500  # rows per tokenizer call
    out: list[TokenSequence] = []
    too_long: list[BadRow] = []
    refused: list[BadRow] = []
    counts: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    quiet = len(rows) < 5000  # takes a second or two
    console = Console(stderr=True)
    for start in track(range(0, len(rows), size), "tokenising", console=console, transient=True, disable=quiet):
        rendered = dict(_rendered(template, rows, range(start, min(start + size, len(rows))), refused, counts, kept))
        parts = [part for sequences in rendered.values() for one in sequences for part in one]
        tokens = iter(template.tokens(parts) if parts else [])
        for index, sequences in rendered.items():
            try:
                out += template.sequences(sequences, rows[index], index, max_length, tokens)
            except PromptTooLongError as error:
                too_long.append(bad_row(rows[index], error))
    bad = [*refused, *too_long]
    check_bad_rows(key, bad, len(rows), max_bad_rows)
    if not out:
        raise TutelageError(f"{key}: no row fits: {bad[0].source}: {bad[0].reason}" if bad else f"{key}: has no rows")
    last = {sequence.index: sequence for sequence in out}
    return out, EncodingReport(
        cut=sum(sequence.cut for sequence in out),
        too_long=tuple(row.source for row in too_long),
        last_turns_cut=tuple(rows[i].source for i, one in last.items() if one.cut and one.turns[-1] != _last(rows[i])),
        refused=tuple(refused),
        split=split_rows(out),
        rendered=dict(sorted(kept.items())),
        left_out=dict(sorted(counts.items())),
    )


def split_rows(sequences: Sequence[TokenSequence]) -> tuple[int, int]:
    """How many rows are several sequences, and how many sequences those are."""
    several = [count for count in Counter(sequence.index for sequence in sequences).values() if count > 1]
    return len(several), sum(several)


def notes(report: EncodingReport) -> list[str]:
    """What a user should know before training, one line each; none if the sequences have all that the rows carry."""
    out = []
    if report.left_out:
        out.append(_counted(report.left_out))
    if report.split[0]:
        out.append(
            f"{report.split[0]} rows are {report.split[1]} sequences, since the chat template renders earlier turns "
            "differently: each assistant turn is learnt as the model is prompted for it"
        )
    if report.refused:
        out.append(
            f"{len(report.refused)} rows left out, the first {report.refused[0].source}: {report.refused[0].reason}"
        )
    return out


def prompt_notes(template: ChatTemplate, conversations: Sequence[Conversation]) -> list[str]:
    """As `notes`, of the conversations' prompts. Raises RenderError for one that the template cannot render."""
    counts = Counter(what for row in conversations for what in left_out(template, row))
    return [_counted(dict(sorted(counts.items())))] if counts else []


def _counted(found: dict[str, int]) -> str:
    return "left out or changed: " + "; ".join(f"{what} in {rows} rows" for what, rows in found.items())


def messages_asked(conversation: Conversation, sequence: TokenSequence) -> tuple[Message, ...]:
    """The messages before the last assistant turn of `sequence`, which may be cut: what `ids[:prompt_length]` says.

    For a conversation cut at the length limit this is an earlier question than `conversation.prompt`.
    """
    return conversation.messages[: sequence.turns[-1]]


def bad_row(conversation: Conversation, error: Exception) -> BadRow:
    """The row as a bad one, for the reason that the error gives."""
    return BadRow(conversation.source, str(error).removeprefix(f"{conversation.source}: "))


def _rendered(
    template: ChatTemplate,
    rows: Sequence[Conversation],
    places: range,
    refused: list[BadRow],
    counts: Counter[str],
    kept: Counter[str],
) -> Iterator[tuple[int, list[list[Part]]]]:
    """The parts of each row by its position; counts what they leave out and what they keep beside texts."""
    for index in places:
        try:
            sequences = template.conversation_parts(rows[index])
        except RenderError as error:
            refused.append(bad_row(rows[index], error))
            continue
        missing = left_out(template, rows[index], sequences)
        counts.update(missing)
        kept.update(f"`{key}`" for key in beside_texts(rows[index]) if not any(f"`{key}`" in text for text in missing))
        yield index, sequences


def _last(conversation: Conversation) -> int:
    """The position of the last assistant turn that carries loss."""
    return max(k for k, message in enumerate(conversation.messages) if message.role == "assistant" and message.train)
