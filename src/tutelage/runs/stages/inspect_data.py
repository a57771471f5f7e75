"""A data section as a model will see it: a few rows, and counts of all that is cut, left out or not read."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tutelage.common.errors import TutelageError, listed
from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.columns import BadRow, bad_lines
from tutelage.data.dataset import LoadedData, load_dataset, repeated_note, repetitions
from tutelage.data.encode_rows import EncodingReport, encode_all, in_rows, notes, prompt_notes
from tutelage.data.sources import odd_separators
from tutelage.models.files import locate
from tutelage.models.load import load_template
from tutelage.recipe.load import data_names, made_by
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.sections import DataConfig, ModelConfig
from tutelage.recipe.stages import PruneStage, SynthesizeStage, TrainStage
from tutelage.runs.rows.notes import read_used_rows, shared_questions
from tutelage.runs.rows.seen import in_file_order


@dataclass(frozen=True)
class SequenceText:
    """One sequence as text."""

    title: str  # where it is from, and how long it is
    pieces: tuple[tuple[bool, str], ...]  # in order; True: the loss is on this text
    expected: tuple[str, ...] = ()  # of a prompt: what answers are compared with


@dataclass(frozen=True)
class Inspection:
    """What `tutelage data inspect` shows of one data section."""

    lines: tuple[str, ...]  # counts
    sequences: tuple[SequenceText, ...]


def inspect_section(
    recipe: RecipeConfig, name: str, folder: Path, model: str, rows: int, told: set[str] | None = None
) -> Inspection:
    """Read and encode data section `name` as the recipe's stages do, and show its first `rows` rows.

    `folder`: of the recipe file. `model`: `student` or `teacher`, whose chat template is used; of a student that a
    stage makes, the teacher's. Sections that are only evaluated are shown as prompts. `told`: the rows left out that
    other sections of the same files have told of, which are only counted; those of this one are added. Raises
    TutelageError for data or a template that cannot be read.
    """
    told = set() if told is None else told
    config = recipe.data[name]
    stage = made_by(config.path)
    if stage is not None:
        raise TutelageError(f"data.{name}: stage `{stage}` makes its rows: inspect another section, or the gold data")
    source = recipe.teacher if model == "teacher" or isinstance(recipe.student, str) else recipe.student
    try:
        locate(source)
    except TutelageError as error:
        raise TutelageError(f"{'teacher' if source is recipe.teacher else 'student'}.path: {error}") from error
    template, context = load_template(source)
    limits = _limits(recipe, name)
    trained = bool(limits) or name not in {task.data for task in recipe.tasks.values()} or _is_read(recipe, name)
    data = load_dataset(name, config.model_copy(update={"max_bad_rows": 1.0}), folder, require_response=trained)
    head = [f"data.{name}: {data.total} rows read, with the chat template of {_named(source)}"]
    head += odd_separators(config, folder)
    if not trained:
        return _of_prompts(template, data, head + _left_out(data, config, (), told), rows)
    lines, sequences = list[str](), list[TokenSequence]()
    for wanted, stages in (limits or {recipe.training.max_length: []}).items():
        limit = wanted if context is None else min(wanted, context)
        found, report = encode_all(template, data, limit, 1.0, f"data.{name}")
        if not lines:
            lines = [*head, *_left_out(data, config, report.refused, told)]
            lines += repetitions(in_file_order(data.conversations))
        own = "`training.max_length`" if wanted == recipe.training.max_length else "`max_length`"
        of = f" for {_stages(stages)}" if wanted != recipe.training.max_length or len(limits) > 1 else ""
        lines += [*_encoded(found, report, f"{own} is {wanted}{of}", limit if limit < wanted else None)]
        lines += _stops(data, report, config.max_bad_rows)
        sequences = sequences or list(found)
    first = list(dict.fromkeys(one.index for one in sequences))[:rows]
    shown = [one for one in sequences if one.index in first]
    return Inspection(tuple(lines), tuple(_text(template, one, data.conversations[one.index]) for one in shown))


def notes_between(recipe: RecipeConfig, folder: Path) -> list[str]:
    """What is said of rows that are in two sections which should be apart, equal, nearly or with another answer."""
    from tutelage.runs.planner import Planner

    data = {name: one.model_copy(update={"max_bad_rows": 1.0}) for name, one in recipe.data.items()}
    planner = Planner(recipe.model_copy(update={"data": data}), folder, folder)
    read_used_rows(planner)
    return shared_questions(planner)


def _encoded(
    sequences: Sequence[TokenSequence], report: EncodingReport, setting: str, read: int | None
) -> Iterator[str]:
    """What becomes of the rows at one limit. `setting`: where that is set. `read`: the tokens that the model reads,
    where these are fewer."""
    fewer = "" if read is None else f", the model reads {read}"
    used = len({one.index for one in sequences})
    yield f"used: {used} rows as {len(sequences)} sequences; {setting}{fewer}"
    yield f"tokens per sequence: {_spread([len(one.ids) for one in sequences])}"
    yield f"learnt tokens per sequence: {_spread([one.response_tokens for one in sequences])}"
    lost = _rows(report.last_turns_cut)
    yield f"cut at the limit: {report.cut} sequences, of which the last turns are lost in {lost}"
    yield f"left out as too long: {_rows(report.too_long)}"
    yield from notes(report)
    if report.rendered:
        kept = "; ".join(in_rows(what, count) for what, count in report.rendered.items())
        yield f"written by the chat template: {kept}"


def _left_out(data: LoadedData, config: DataConfig, refused: Sequence[BadRow], told: set[str]) -> list[str]:
    """The rows that cannot be used, and those that `distinct` leaves out, where no other section has told of them."""
    bad = [*data.bad_rows, *refused]
    new = [row for row in bad if f"{config.path} {row.source}" not in told]
    told.update(f"{config.path} {row.source}" for row in bad)
    lines = bad_lines(new)
    if before := len(bad) - len(new):
        lines.append(f"bad rows: {before:,}{' others' * bool(new)}, named above")
    for note in repeated_note(data):
        lines.append(note if f"{config.path} {note}" not in told else f"{note.partition(':')[0]}, as named above")
        told.add(f"{config.path} {note}")
    return lines


def _stops(data: LoadedData, report: EncodingReport, allowed: float) -> list[str]:
    """Whether training stops at so many bad rows."""
    lost = len(report.refused) + len(report.too_long)
    if len(data.bad_rows) <= allowed * data.total and lost <= allowed * len(data.conversations):
        return []
    return [f"training would stop: `max_bad_rows` allows {allowed:.1%} of the rows to be bad or too long"]


def _of_prompts(template: ChatTemplate, data: LoadedData, head: list[str], rows: int) -> Inspection:
    conversations = data.conversations
    prompts = template.encode_prompts([row.prompt for row in conversations], [row.source for row in conversations])
    lines = [*head, *repetitions(in_file_order(conversations))]
    lines.append(f"used as prompts; tokens per prompt: {_spread([len(ids) for ids in prompts])}")
    lines += prompt_notes(template, conversations)
    shown = [
        SequenceText(f"{row.source}: a prompt of {len(ids)} tokens", ((False, _decoded(template, ids)),), row.targets)
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


def _limits(recipe: RecipeConfig, name: str) -> dict[int, list[str]]:
    """The stages that train on the section, or measure a loss on it meanwhile, by their `max_length`."""
    found: dict[int, list[str]] = {}
    for stage in recipe.stages:
        if isinstance(stage, TrainStage):
            training = recipe.training_of(stage)
            if name in data_names(stage, training):
                found.setdefault(training.max_length, []).append(stage.name)
    return found


def _is_read(recipe: RecipeConfig, name: str) -> bool:
    """Whether a stage that does not train needs the section's responses."""
    prunes = [stage.prune.calibration for stage in recipe.stages if isinstance(stage, PruneStage)]
    return name in [*prunes, *(stage.gold for stage in recipe.stages if isinstance(stage, SynthesizeStage))]


def _stages(names: Sequence[str]) -> str:
    return f"stage{'s' * (len(names) > 1)} {', '.join(f'`{name}`' for name in names)}"


def _named(model: ModelConfig) -> str:
    return f"`{model.path}`" + ("" if model.chat_template == "auto" else f" (`chat_template: {model.chat_template}`)")


def _spread(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}, median {statistics.median(values):g}"


def _rows(sources: Sequence[str]) -> str:
    """A number of rows, and where the first of them are."""
    return f"{len(sources)} row{'s' * (len(sources) != 1)}" + (f" ({listed(sources)})" if sources else "")
