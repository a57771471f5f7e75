"""A run's data sections as token sequences that its models can read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.common.errors import TutelageError, listed
from tutelage.common.progress import tell
from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.align_rows import align_all
from tutelage.data.columns import BadRow
from tutelage.data.dataset import LoadedData, bad_rows_note, check_bad_rows, load_dataset, repeated_note
from tutelage.data.encode_rows import EncodingReport, encode_all, notes, split_rows
from tutelage.data.large.stored import StoredSequences, cut_of, indices_of
from tutelage.data.teacher_prompts import teacher_view
from tutelage.models.limits import refuse_unknown_token
from tutelage.models.load import LoadedModel
from tutelage.recipe.sections import DataConfig
from tutelage.runs.run import Run

_LOOKED = 100  # rows whose system turns are compared


@dataclass(frozen=True)
class Encoded:
    """A data section as token sequences."""

    sequences: Sequence[TokenSequence]  # `index` is the position in `conversations`
    conversations: Sequence[Conversation]
    report: dict[str, Any]  # rows used, cut, left out, split, and those that lost their last turns


def readable_length(wanted: int | None, *models: LoadedModel | None) -> int:
    """The most tokens per sequence: `wanted` (None: any number), or what the model with the shortest context reads."""
    return min(
        [wanted or sys.maxsize, *(model.context for model in models if model is not None and model.context is not None)]
    )


@dataclass(frozen=True)
class Tokenised:
    """The rows of a section as its models read them, and what became of the others."""

    sequences: Sequence[TokenSequence]
    report: EncodingReport
    why: str  # which model reads fewer tokens than wanted, in words; "" for none
    too_long: list[str]  # sources of the rows that are left out
    last_turns_cut: list[str]
    bad: list[BadRow]  # that a chat template refuses


def tokenised(
    data: LoadedData,
    config: DataConfig,
    key: str,
    reader: LoadedModel,
    max_length: int | None,
    teacher: LoadedModel | None = None,
) -> Tokenised:
    """The rows of a section by the chat template of `reader`, and by that of the teacher, as `encoded` has them.

    Prints nothing; of the models only tokenizers, templates and shapes count. Raises TutelageError as `encoded` does.
    """
    limit, rows = readable_length(max_length, reader, teacher), data.conversations
    why = _why_limited(max_length, limit, reader, teacher)
    try:
        sequences, report = encode_all(reader.template, data, limit, config.max_bad_rows, key)
    except TutelageError as error:
        raise TutelageError(f"{why}: {error}") if why else error from None
    _refuse_unknown(f"`{reader.name}`", reader, sequences, rows, key)
    found = Tokenised(sequences, report, why, [*report.too_long], [*report.last_turns_cut], [*report.refused])
    if teacher is None:
        return found
    sequences, other = align_all(sequences, data, reader.template, teacher.template, teacher.context, key)
    refused = [BadRow(*row) for row in other["refused"]]
    check_bad_rows(key, refused, len(rows), config.max_bad_rows)
    _refuse_unknown(f"the teacher `{teacher.name}`", teacher, sequences, rows, key)
    if not sequences:
        raise TutelageError(
            f"{key}: no row fits into the {teacher.context} tokens that the teacher `{teacher.name}` reads, "
            "rendered by its own chat template: use shorter rows, or a teacher that reads more"
        )
    gone = {*other["beyond"], *(row.source for row in refused)}
    shorter = dict.fromkeys([*found.last_turns_cut, *other["shorter"]])
    if (other["beyond"] or other["shorter"]) and not why:
        why = f"the teacher's chat template makes some rows longer than the {teacher.context} tokens that it reads"
    too_long, bad = [*found.too_long, *other["beyond"]], [*found.bad, *refused]
    return Tokenised(sequences, report, why, too_long, [one for one in shorter if one not in gone], bad)


def encoded(
    run: Run, name: str, reader: LoadedModel, max_length: int | None, teacher: LoadedModel | None = None
) -> Encoded:
    """Read data section `name`, encode it with the chat template of `reader`, at most `max_length` tokens per sequence
    (None: any number).

    Rows are also cut at the context of `reader` and `teacher`, which is said in one line. With a teacher, sequences
    have its rendering of the prompts; those too long for it in that rendering are left out, and rows without any other
    are listed as well; rows that its template refuses are bad rows. Prints how many rows are bad, cut or left out, and
    what the rows carry and no sequence has.

    Raises TutelageError when more rows are bad than the section allows, and for a row with a token that `reader` or
    `teacher` does not know.
    """
    config, key = run.data[name], f"data.{name}"
    data = load_dataset(name, config, run.recipe_folder)
    found, rows = tokenised(data, config, key, reader, max_length, teacher), data.conversations
    sequences, report, why, too_long = found.sequences, found.report, found.why, found.too_long
    cut = int(cut_of(sequences).sum())
    if not why and (cut or too_long):
        why = f"`max_length` is {readable_length(max_length, reader, teacher)}"
    if why and (max_length is not None or cut or too_long):
        those = f" ({listed(too_long)})" if too_long else ""
        tell(f"{key}: {why}: {cut} rows are cut, {len(too_long)} left out{those}", run.stage)
    for note in [*bad_rows_note(data), *repeated_note(data)]:
        tell(f"{key}: {note}", run.stage, cause=f"{config.path}: {note}")  # once for all slices of a file
    for note in notes(report):
        tell(f"{key}: {note}", run.stage)
    counts = {
        "rows": len(np.unique(indices_of(sequences))),
        "cut": cut,
        "too_long": too_long,
        "last_turns_cut": found.last_turns_cut,
        "bad_rows": [[row.source, row.reason] for row in (*data.bad_rows, *found.bad)],
    }
    if data.repeated:
        counts["repeated"] = list(data.repeated)
    split, _ = split_rows(sequences)
    if split:
        counts |= {"split_rows": split, "sequences": len(sequences)}
    if system := _system_of(rows):
        counts["system"] = system
    if all(sum(turn.role == "user" for turn in row.messages) < 2 for row in rows[:_LOOKED]):
        counts["one_question"] = True
    counts |= {key: getattr(report, key) for key in ("rendered", "left_out") if getattr(report, key)}
    return Encoded(sequences, rows, counts)


def _system_of(rows: Sequence[Conversation]) -> str:
    """The system turn that the first rows share, for who talks to the model; "" if they have none, or several."""
    first = [row.messages[:1] for row in rows[:_LOOKED]]
    texts = {turns[0].content if turns and turns[0].role == "system" else "" for turns in first}
    return texts.pop() if len(texts) == 1 else ""


def _why_limited(wanted: int | None, limit: int, *models: LoadedModel | None) -> str:
    """Which model reads fewer tokens than `wanted`, in words; "" if none does."""
    if limit == (wanted or sys.maxsize):
        return ""
    name = next(model.name for model in models if model is not None and model.context == limit)
    fewer = "" if wanted is None else f", fewer than `max_length` ({wanted})"
    return f"`{name}` reads {limit} tokens (max_position_embeddings of its config){fewer}"


def _refuse_unknown(
    who: str, model: LoadedModel, sequences: Sequence[TokenSequence], rows: Sequence[Conversation], key: str
) -> None:
    """Raise TutelageError for a token that the model does not know, in its rendering of the sequences."""
    if isinstance(sequences, StoredSequences):
        highest = [part["highest"] for part in sequences.reports if part["highest"]]
        read = [([token], index) for token, index in sorted(highest, key=lambda one: (-one[0], one[1]))[:1]]
    else:
        read = [(teacher_view(one).ids, one.index) for one in sequences]
    for ids, index in read:
        refuse_unknown_token(who, model.model, model.tokenizer, ids, f"{key}: {rows[index].source}")
