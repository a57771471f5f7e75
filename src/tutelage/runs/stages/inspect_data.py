"""A data section as a model will see it: a few rows, and counts of all that is cut, left out or not read."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.columns import BadRow, listed
from tutelage.data.dataset import LoadedData, load_dataset, repetitions
from tutelage.data.encode_rows import encode_all, in_rows, notes, prompt_notes
from tutelage.data.sources import odd_separators
from tutelage.models.load import load_template
from tutelage.recipe.load import made_by
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.sections import ModelConfig
from tutelage.recipe.stages import EvaluateStage
from tutelage.runs.rows.seen import in_file_order


@dataclass(frozen=True)
class SequenceText:
    """One sequence as text."""

    title: str  # where it is from, and how long it is
    pieces: tuple[tuple[bool, str], ...]  # in order; True: the loss is on this text


@dataclass(frozen=True)
class Inspection:
    """What `tutelage data inspect` shows of one data section."""

    lines: tuple[str, ...]  # counts
    sequences: tuple[SequenceText, ...]


def inspect_section(recipe: RecipeConfig, name: str, folder: Path, model: str, rows: int) -> Inspection:
    """Read and encode data section `name` as the recipe's training does, and show its first `rows` rows.

    `folder`: of the recipe file. `model`: `student` or `teacher`, whose chat template is used; of a student that a
    stage makes, the teacher's. Sections that are only evaluated are shown as prompts. Raises TutelageError for data or
    a template that cannot be read.
    """
    config = recipe.data[name]
    stage = made_by(config.path)
    if stage is not None:
        raise TutelageError(f"data.{name}: stage `{stage}` makes its rows: inspect another section, or the gold data")
    source = recipe.teacher if model == "teacher" or isinstance(recipe.student, str) else recipe.student
    template, context = load_template(source)
    trained = _is_trained_on(recipe, name)
    data = load_dataset(name, config.model_copy(update={"max_bad_rows": 1.0}), folder, require_response=trained)
    head = [f"data.{name}: {data.total} rows read, with the chat template of {_named(source)}"]
    head += odd_separators(config, folder)
    if not trained:
        return _of_prompts(template, data, head, rows)
    wanted = recipe.training.max_length
    limit = wanted if context is None else min(wanted, context)
    sequences, report = encode_all(template, data, limit, 1.0, f"data.{name}")
    used = len({one.index for one in sequences})
    lines = [
        *head,
        *_bad(data, report.refused, len(report.too_long), config.max_bad_rows),
        *repetitions(in_file_order(data.conversations)),
        f"used: {used} rows as {len(sequences)} sequences",
        f"tokens per sequence: {_spread([len(one.ids) for one in sequences])}; `training.max_length` is {wanted}"
        + (f", the model reads {limit}" if limit < wanted else ""),
        f"learnt tokens per sequence: {_spread([one.response_tokens for one in sequences])}",
        f"cut at the limit: {report.cut} sequences, of which the last turns are lost in {_rows(report.last_turns_cut)}",
        f"left out as too long: {_rows(report.too_long)}",
        *notes(report),
    ]
    if report.rendered:
        kept = "; ".join(in_rows(what, count) for what, count in report.rendered.items())
        lines.append(f"written by the chat template: {kept}")
    wanted = list(dict.fromkeys(one.index for one in sequences))[:rows]
    shown = [one for one in sequences if one.index in wanted]
    return Inspection(tuple(lines), tuple(_text(template, one, data.conversations[one.index]) for one in shown))


def _bad(data: LoadedData, refused: Sequence[BadRow], too_long: int, allowed: float) -> list[str]:
    """The first bad rows, and whether training stops at so many."""
    bad = [*data.bad_rows, *refused]
    lines = [f"bad row: {row.source}: {row.reason}" for row in bad[:5]]
    lines += [f"bad rows: {len(bad) - 5} more"] if len(bad) > 5 else []
    if len(data.bad_rows) > allowed * data.total or len(refused) + too_long > allowed * len(data.conversations):
        lines.append(f"training would stop: `max_bad_rows` allows {allowed:.1%} of the rows to be bad or too long")
    return lines


def _of_prompts(template: ChatTemplate, data: LoadedData, head: list[str], rows: int) -> Inspection:
    conversations = data.conversations
    prompts = template.encode_prompts([row.prompt for row in conversations], [row.source for row in conversations])
    lines = [*head, *_bad(data, (), 0, 1.0), *repetitions(in_file_order(conversations))]
    lines.append(f"used as prompts; tokens per prompt: {_spread([len(ids) for ids in prompts])}")
    lines += prompt_notes(template, conversations)
    shown = [
        SequenceText(f"{row.source}: a prompt of {len(ids)} tokens", ((False, _decoded(template, ids)),))
        for row, ids in zip(conversations[:rows], prompts, strict=False)
    ]
    return Inspection(tuple(lines), tuple(shown))


def _text(template: ChatTemplate, sequence: TokenSequence, row: Conversation) -> SequenceText:
    marked = zip(sequence.loss_mask.tolist(), sequence.ids.tolist(), strict=True)
    pieces = [(learnt, [token for _, token in run]) for learnt, run in groupby(marked, key=lambda pair: pair[0])]
    number = f", sequence {sequence.part + 1}" if sequence.part else ""
    cut = ", cut at the limit" if sequence.cut else ""
    title = f"{row.source}{number}: {len(sequence.ids)} tokens, {sequence.response_tokens} of them learnt{cut}"
    return SequenceText(title, tuple((learnt, _decoded(template, ids)) for learnt, ids in pieces))


def _decoded(template: ChatTemplate, ids: Sequence[int]) -> str:
    return template.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _is_trained_on(recipe: RecipeConfig, name: str) -> bool:
    """Whether a stage needs the section's responses; a section that no stage or task names counts as well."""
    used: set[str] = set()
    for stage in recipe.stages:
        if not isinstance(stage, EvaluateStage):
            data = getattr(stage, "data", [])
            used |= {*([data] if isinstance(data, str) else data), getattr(stage, "gold", "")}
            used.add(str(getattr(stage, "training", {}).get("validation") or recipe.training.validation or ""))
            used.add(getattr(getattr(stage, "prune", None), "calibration", None) or "")
    return name in used or name not in {task.data for task in recipe.tasks.values()}


def _named(model: ModelConfig) -> str:
    return f"`{model.path}`" + ("" if model.chat_template == "auto" else f" (`chat_template: {model.chat_template}`)")


def _spread(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}, median {statistics.median(values):g}"


def _rows(sources: Sequence[str]) -> str:
    """A number of rows, and where the first of them are."""
    return f"{len(sources)} row{'s' * (len(sources) != 1)}" + (f" ({listed(sources)})" if sources else "")
