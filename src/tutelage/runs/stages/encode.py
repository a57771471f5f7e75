"""A run's data sections as token sequences that its models can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import encode_all, messages_asked
from tutelage.data.dataset import load_dataset
from tutelage.data.teacher_prompts import align, teacher_view
from tutelage.models.limits import refuse_unknown_token
from tutelage.models.load import LoadedModel
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Encoded:
    """A data section as token sequences."""

    sequences: list[TokenSequence]  # `index` is the position in `conversations`
    conversations: tuple[Conversation, ...]
    report: dict[str, Any]  # rows read, cut, left out, and those that lost their last turns


def readable_length(wanted: int, *models: LoadedModel | None) -> int:
    """The most tokens per row: `wanted`, or what the model with the shortest context reads."""
    return min([wanted, *(model.context for model in models if model is not None and model.context is not None)])


def encoded(run: Run, name: str, reader: LoadedModel, max_length: int, teacher: LoadedModel | None = None) -> Encoded:
    """Read data section `name` and encode it with the chat template of `reader`, at most `max_length` tokens per row.

    Rows are also cut at the context of `reader` and `teacher`, which is said in one line. With a teacher, sequences
    have its rendering of the prompts; rows too long for it in that rendering are left out and listed as well.

    Raises TutelageError when more rows are bad than the section allows, and for a row with a token that `reader` or
    `teacher` does not know.
    """
    config, key = run.data[name], f"data.{name}"
    data = load_dataset(name, config, run.recipe_folder)
    limit, rows = readable_length(max_length, reader, teacher), data.conversations
    why = _why_limited(max_length, limit, reader, teacher)
    try:
        sequences, report = encode_all(reader.template, data, limit, config.max_bad_rows, key)
    except TutelageError as error:
        raise TutelageError(f"{why}: {error}") if why else error from None
    for sequence in sequences:
        source = f"{key}: {rows[sequence.index].source}"
        refuse_unknown_token(f"`{reader.name}`", reader.model, reader.tokenizer, sequence.ids, source)
    left_out = list(report.too_long)
    if teacher is not None:
        sequences, beyond = _for_teacher(sequences, rows, reader, teacher, key)
        left_out += beyond
        if beyond and not why:
            why = f"the teacher's chat template makes some rows longer than the {teacher.context} tokens that it reads"
    cut = sum(sequence.cut for sequence in sequences)
    if why:
        listed = f" ({', '.join(left_out[:3])}{' …' * (len(left_out) > 3)})" if left_out else ""
        print(f"{run.stage}: {key}: {why}: {cut} rows are cut, {len(left_out)} left out{listed}", flush=True)
    counts = {
        "rows": len(sequences),
        "cut": cut,
        "too_long": left_out,
        "last_turns_cut": [
            rows[s.index].source
            for s in sequences
            if s.cut and messages_asked(rows[s.index], s) != rows[s.index].prompt
        ],
        "bad_rows": [[bad.source, bad.reason] for bad in data.bad_rows],
    }
    return Encoded(sequences, rows, counts)


def _why_limited(wanted: int, limit: int, *models: LoadedModel | None) -> str:
    """Which model reads fewer tokens than `wanted`, in words; "" if none does."""
    if limit == wanted:
        return ""
    name = next(model.name for model in models if model is not None and model.context == limit)
    return f"`{name}` reads {limit} tokens (max_position_embeddings of its config), fewer than `max_length` ({wanted})"


def _for_teacher(
    sequences: list[TokenSequence],
    rows: tuple[Conversation, ...],
    reader: LoadedModel,
    teacher: LoadedModel,
    key: str,
) -> tuple[list[TokenSequence], list[str]]:
    """The sequences with the teacher's rendering of their prompts, and the sources of those too long for it.

    Raises TutelageError for a token that the teacher does not know, or if no row is left.
    """
    kept, beyond = [], []
    for sequence in align(sequences, rows, reader.template, teacher.template):
        ids, source = teacher_view(sequence).ids, rows[sequence.index].source
        if teacher.context is not None and len(ids) > teacher.context:
            beyond.append(source)
            continue
        who, where = f"the teacher `{teacher.name}`", f"{key}: {source}"
        refuse_unknown_token(who, teacher.model, teacher.tokenizer, ids, where)
        kept.append(sequence)
    if not kept:
        raise TutelageError(
            f"{key}: no row fits into the {teacher.context} tokens that the teacher `{teacher.name}` reads, rendered "
            "by its own chat template: use shorter rows, or a teacher that reads more"
        )
    return kept, beyond
