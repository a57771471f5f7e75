"""Whether runs can use their rows, as their tokenizers, chat templates and length limits will have them.

The verdict is the stages' own (`runs/stages/encode.py:tokenised`), once per rows, tokenizer, template and length. It is
asked only where a quick look finds that more rows may be bad than their section allows: a prompt can be too long only
if its text has as many bytes, and of rows of one shape (roles and keys) one is rendered. The look is at the first
`MOST_ROWS` rows of a section, and tokenises at most `MOST_BYTES` of their prompts, the longest first: of what is beyond
nothing is said, nor of rows that a stage of the plan makes, or of models that are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message
from tutelage.data.chat_template import ChatTemplate, Part, RenderError
from tutelage.data.dataset import LoadedData, load_dataset
from tutelage.data.sources import local_files
from tutelage.data.teacher_prompts import same_rendering
from tutelage.models.limits import embedding_rows
from tutelage.runs.preflight.models import Models, origin_of
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run, maker_of, section_key
from tutelage.runs.stages.encode import readable_length, tokenised

if TYPE_CHECKING:
    from tutelage.models.load import LoadedModel

    Prompt = tuple[Message, ...]

MOST_ROWS, MOST_BYTES = 20_000, 4_000_000
_CALL = 500  # prompts per call of the tokenizer
_UNKNOWN_HEADER = 100  # tokens around a turn where the template does not render a question alone


def row_problems(
    runs: Iterable[Run], models: Models, read: bool, wrong: Collection[tuple[Any, ...]] = ()
) -> Iterator[Problem]:
    """The problems of the rows that the runs read, each once, with the first stage that has it. `read`: sections of the
    hub are here, too, since this process has read them. `wrong`: those, by `section_key`, that are known to be."""
    rows, seen = _Rows(read, wrong), set[str]()
    for run in runs:
        for text in rows.errors(run, models):
            if text and text not in seen:
                yield Problem(f"stage `{run.config.name if run.kind == 'answers' else run.stage}`: {text}")
            seen.add(text)
    yield from map(Problem, dict.fromkeys(rows.unreadable))


@dataclass(frozen=True)
class _Reading:
    """How a run tokenises a section."""

    section: str
    reader: LoadedModel
    max_length: int | None
    teacher: LoadedModel | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for readings that give the same tokens."""
        known = [(one.template.fingerprint, one.context, embedding_rows(one.model)) for one in self.models]
        return self.max_length, *known

    @property
    def models(self) -> list[LoadedModel]:
        """Those that read the tokens."""
        return [self.reader, *([] if self.teacher is None else [self.teacher])]


def _readings(run: Run, models: Models) -> Iterator[_Reading]:
    """What the run's stage asks `encoded` (`runs/stages/encode.py`) for, as far as its models are known here."""
    from tutelage.runs.stages.prune import CALIBRATION_LENGTH

    names = list(run.data)
    readers: list[tuple[LoadedModel | None, int | None]] = []
    teacher: LoadedModel | None = None
    if run.kind == "answers" and run.answers_for is None:
        readers = [(_shape_of(run, "teacher", models), run.max_length)]
    elif run.kind == "answers" and run.answers_for is not None:
        readers = [(models.shape(run.answers_for), run.max_length), (_shape_of(run, "teacher", models), None)]
    elif run.training is not None:
        readers = [(_shape_of(run, "student", models), run.training.max_length)]
    elif run.kind in ("held_out", "signals"):
        readers = [(_shape_of(run, "model", models), run.config.max_length)]
    elif run.kind == "prune" and run.config.prune.calibration is not None:
        names = [run.config.prune.calibration]
        readers = [(_shape_of(run, "model", models), CALIBRATION_LENGTH)]
    if readers and run.kind != "answers" and "teacher" in run.models:
        teacher = _shape_of(run, "teacher", models)
        readers = [] if teacher is None else readers
    for reader, length in readers:
        yield from (_Reading(name, reader, length, teacher) for name in names if reader is not None)


def _shape_of(run: Run, role: str, models: Models) -> LoadedModel | None:
    """The model of this role without weights, or the one from which a stage has still to make it; None if not here."""
    if role not in run.models:
        return None
    maker = maker_of(run, role)
    return models.shape(run.models[role] if maker is None or maker.done else origin_of(run, role)[0])


class _Rows:
    """Sections, each read once, and what was found of them."""

    def __init__(self, read: bool, wrong: Collection[tuple[Any, ...]]) -> None:
        self.read, self.wrong = read, wrong
        self.unreadable: list[str] = []
        self._data: dict[tuple[Any, ...], LoadedData | None] = {}
        self._found: dict[tuple[Any, ...], str] = {}
        self._lengths: dict[str, dict[Prompt, int]] = {}  # by template: tokens of prompts

    def errors(self, run: Run, models: Models) -> Iterator[str]:
        """What keeps the run from using its rows; "" for nothing."""
        for reading in _readings(run, models):
            name = reading.section
            if (data := self._load(run, name)) is not None:
                key = section_key(run, name), run.planned_data[name], reading.key
                yield self._once(key, partial(self._verdict, run, reading, data))
        if run.kind == "evaluate":
            name, shape = run.config.data, _shape_of(run, "model", models)
            if shape is not None and (data := self._load(run, name)) is not None:
                key = section_key(run, name), run.planned_data[name], shape.template.fingerprint
                yield self._once(key, partial(_prompt_error, f"data.{name}", data, shape.template))
        if run.kind == "synthesize" and self._load(run, run.config.gold) is not None:
            yield self._once((run.fingerprint,), partial(_gold_error, run))

    def _once(self, key: tuple[Any, ...], look: Callable[[], str]) -> str:
        if key not in self._found:
            self._found[key] = look()
        return self._found[key]

    def _load(self, run: Run, name: str) -> LoadedData | None:
        """The rows of a section; None where a stage makes them, or they are not here or not as they should be."""
        if name not in run.planned_data or section_key(run, name) in self.wrong:
            return None
        config, (_, responses) = run.data[name], run.planned_data[name]
        key = section_key(run, name), responses
        if key not in self._data:
            self._data[key] = None
            try:
                if self.read or local_files(name, config, run.recipe_folder) is not None:
                    self._data[key] = load_dataset(name, config, run.recipe_folder, responses)
            except TutelageError as error:
                self.unreadable.append(str(error))
        return self._data[key]

    def _verdict(self, run: Run, reading: _Reading, data: LoadedData) -> str:
        """What the stage will say, if the rows may be refused."""
        config = run.data[reading.section]
        try:
            if self._may_fail(reading, data, config.max_bad_rows):
                key = f"data.{reading.section}"
                tokenised(data, config, key, reading.reader, reading.max_length, reading.teacher)
        except TutelageError as error:
            return str(error)
        return ""

    def _may_fail(self, reading: _Reading, data: LoadedData, allowed: float) -> bool:
        """Whether so many of the first rows may be bad that the section is refused."""
        rows, template = data.conversations[:MOST_ROWS], reading.reader.template
        limit = readable_length(reading.max_length, *reading.models)

        def too_many(count: int) -> bool:
            return count == len(rows) or count / len(rows) > allowed

        refused = _refused(rows, template)
        if too_many(len(refused)):
            return True
        teacher = None if reading.teacher is None else reading.teacher.template
        if teacher is not None and not same_rendering(template, teacher) and too_many(len(_refused(rows, teacher))):
            return True
        if any(map(_lacks_tokens, reading.models)):  # which tokens the rows have is not known before
            return len(rows) == len(data.conversations) and sum(map(_bytes_of, rows)) <= MOST_BYTES
        left = sorted(self._long(template, rows, limit, refused), key=lambda found: -found[0])
        count, budget = len(refused), MOST_BYTES
        while left and budget > 0 and too_many(count + len(left)):
            part, left = left[:_CALL], left[_CALL:]
            try:
                count += sum(length >= limit for length in self._tokens(template, [prompt for _, prompt in part]))
            except RenderError:
                return True
            budget -= sum(size for size, _ in part)
            if too_many(count):
                return True
        return False

    def _long(
        self, template: ChatTemplate, rows: Sequence[Conversation], limit: int, refused: Collection[str]
    ) -> Iterator[tuple[int, Prompt]]:
        """The first prompts that may have `limit` tokens, with their bytes."""
        try:
            header = len(template.encode_prompt([Message("user", "?")]))
        except RenderError:
            header = _UNKNOWN_HEADER
        for row in rows:
            prompt = _first_prompt(row)
            size = sum(map(_message_bytes, prompt))
            if prompt and size + (len(prompt) + 1) * header >= limit and row.source not in refused:
                yield size, prompt

    def _tokens(self, template: ChatTemplate, prompts: Sequence[Prompt]) -> list[int]:
        """How many tokens the prompts have, as those of `ChatTemplate.parts`. Sizes of a study share rows."""
        known = self._lengths.setdefault(template.fingerprint, {})
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        ids = template.tokens([Part(template.render(prompt, True)) for prompt in new]) if new else []
        known.update(zip(new, map(len, ids), strict=True))
        return [known[prompt] for prompt in prompts]


def _first_prompt(row: Conversation) -> Prompt:
    """What stands before the first turn with loss; nothing for plain text."""
    trained = (place for place, one in enumerate(row.messages) if one.role == "assistant" and one.train)
    return row.messages[: next(trained, len(row.messages))]


def _message_bytes(message: Message) -> int:
    """Bytes of its text; more than those of what else it has, which templates may write as indented JSON."""
    beside = [str(one) for one in (message.extra, message.tools) if one]
    return len(message.content.encode("utf-8", "surrogatepass")) + 4 * sum(map(len, beside))


def _bytes_of(row: Conversation) -> int:
    return sum(map(_message_bytes, row.messages))


def _shape(messages: Sequence[Message]) -> tuple[Any, ...]:
    """Equal for rows that templates render alike, or refuse alike: by roles, keys and tools."""
    roles, keys = [one.role for one in messages], frozenset(key for one in messages for key in one.extra)
    return (*roles[:2], *roles[-1:], frozenset(pairwise(roles)), keys, bool(messages[0].tools))


def _refused(rows: Sequence[Conversation], template: ChatTemplate) -> set[str]:
    """The sources of the rows whose shape the template cannot render."""
    shapes, refused = dict[tuple[Any, ...], bool](), set[str]()
    for row in rows:
        shape = _shape(row.messages)
        if shape not in shapes:
            try:
                template.conversation_parts(row)
                shapes[shape] = False
            except RenderError:
                shapes[shape] = True
        if shapes[shape]:
            refused.add(row.source)
    return refused


def _lacks_tokens(model: LoadedModel) -> bool:
    """Whether its tokenizer has tokens that the model does not know."""
    return max(model.tokenizer.get_vocab().values()) >= embedding_rows(model.model)


def _prompt_error(key: str, data: LoadedData, template: ChatTemplate) -> str:
    """What an evaluation will say of prompts that the template cannot render, of one per shape."""
    rows = {_shape(row.prompt): row for row in reversed(data.conversations[:MOST_ROWS]) if row.prompt}
    try:
        template.encode_prompts([row.prompt for row in rows.values()], [row.source for row in rows.values()])
    except TutelageError as error:
        return f"{key}: {error}"
    return ""


def _gold_error(run: Run) -> str:
    from tutelage.runs.stages.synthesize import gold_rows

    try:
        gold_rows(run, run.config)
    except TutelageError as error:
        return str(error).removeprefix(f"stage `{run.stage}`: ")
    return ""
