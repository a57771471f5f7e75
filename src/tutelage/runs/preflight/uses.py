"""Whether the models of the runs can be adapted, cut, sharded, quantised and paired as the recipe says, by their shapes
and tokens. What a stage of the plan makes is taken for the model that it comes from, cut as its `prune` stages say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tutelage.common.errors import TutelageError
from tutelage.models.files import locate
from tutelage.models.sharding import decoder_layers
from tutelage.models.surgery.lora import inject_adapter, is_adapter, missing_peft
from tutelage.models.surgery.prune import fixed_layers, prune_layers
from tutelage.models.surgery.quantise import check_precision, missing_package
from tutelage.models.vocabulary import check_vocabularies
from tutelage.recipe.stages import PruneConfig
from tutelage.runs.fingerprints import questions_read
from tutelage.runs.preflight.models import Models, origin_of
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run, adapter_line, maker_of
from tutelage.runs.stages.teacher import ATTENTION, is_asked


def use_problems(runs: Sequence[Run], models: Models, ranks: int, here: bool) -> Iterator[Problem]:
    """The problems of what the runs do with models whose shapes are known. `ranks`, `here`: as in `find_problems`."""
    uses, seen = _Uses(models, ranks, here), set[str]()
    for run in runs:
        for error in uses.errors(run):
            if error not in seen:  # of several stages with one mistake the first is named
                yield Problem(f"stage `{run.stage}`: {error}")
            seen.add(error)
        if text := _unread_answers(run, models):
            yield Problem(text)


def _unread_answers(run: Run, models: Models) -> str:
    """That the student of a SeqKD stage, at which the plan did not look on the hub, cannot read what the teacher would
    be asked; "" where the plan knew how it reads, or where it can."""
    answers = next((parent for parent in run.parents if parent.kind == "answers"), None)
    if answers is None or answers.done or answers.answers_for is not None or answers.max_length is None:
        return ""
    student, teacher = (models.shape(origin_of(*one)[0]) for one in ((run, "student"), (answers, "teacher")))
    if student is None or teacher is None:
        return ""
    length = answers.max_length
    if questions_read((student.template, student.context), (teacher.template, teacher.context), length) == (length, ""):
        return ""
    return (
        f"stage `{run.stage}`: the student reads fewer or other tokens than the teacher, which would be asked in vain "
        "what the student cannot read: set `own_answers: true` in this stage"
    )


class _Uses:
    def __init__(self, models: Models, ranks: int, here: bool) -> None:
        self.models, self.ranks, self.here = models, ranks, here
        self._made: dict[str, Any] = {}  # models on the meta device, by origin and cuts
        self._adapted: dict[str, str] = {}  # what keeps a model from an adapter, by both
        self._paired: dict[tuple[str, str], str] = {}  # what keeps two models from sharing tokens

    def errors(self, run: Run) -> Iterator[str]:
        """What is wrong with the models of a run."""
        if run.kind == "prune" and (model := self._model(run, "model")) is not None:
            yield from filter(None, [_error(_cut, copy.deepcopy(model), [run.config.prune])])
        yield from filter(None, [self._adapter_error(run), *self._held_errors(run), *self._pair_errors(run)])

    def _adapter_error(self, run: Run) -> str:
        lora, model = run.lora, None if run.lora is None or missing_peft() else self._model(run, "student")
        if lora is None or model is None:
            return ""
        key = f"{_key(run, 'student')} {lora.targets} {bool(lora.dropout)}"
        if key not in self._adapted:
            with torch.device("meta"):
                self._adapted[key] = _error(inject_adapter, copy.deepcopy(model), lora)
        error = self._adapted[key]
        return error and f"`{origin_of(run, 'student')[0].path}`: {error}"

    def _held_errors(self, run: Run) -> Iterator[str]:
        """Of each model that it loads: whether it can be held in its precision, and in shares."""
        shard = run.training is not None and bool(run.training.shard) and self.ranks > 1
        for role, config in run.models.items():
            adapted = run.lora if role == "student" else None
            first = run if adapted is None else adapter_line(run)[-1]  # loads the weights that are frozen
            precision = config.precision if adapted is None else adapted.base
            shared = shard and not (role == "teacher" and is_asked(run))
            keys = {"precision": precision, "tensor_parallel": config.tensor_parallel, "training.shard": shared}
            wanting = next((key for key, value in keys.items() if value), None)
            if wanting is not None and (adapter := _adapter_text(first, role)):
                yield f"`{wanting}` needs a whole model, and {adapter}"
                continue
            if shared and (model := self._model(run, role)) is not None and (error := _error(decoder_layers, model)):
                yield f"training.shard: {error}"
            far = precision == "float8" and not self.here  # on a GPU that is not known
            if precision is not None and missing_package(precision) is None and not far:
                named = origin_of(run, role)[0].model_copy(update={"precision": precision})
                yield _error(check_precision, named, False, run.device, shared)

    def _pair_errors(self, run: Run) -> Iterator[str]:
        """Whether teacher and student, or teacher and the model that is measured, fit together."""
        other = "student" if "student" in run.models else "model"
        if not {"teacher", other} <= run.models.keys():
            return
        (one, _), (two, _) = origin_of(run, "teacher"), origin_of(run, other)
        if (one.path, one.tokenizer) == (two.path, two.tokenizer):
            return
        key = one.model_dump_json(), two.model_dump_json()
        if key not in self._paired:
            shapes = [shape for shape in map(self.models.shape, (one, two)) if shape is not None]
            tokens = [shape.tokenizer for shape in shapes]
            self._paired[key] = _error(check_vocabularies, *tokens) if len(tokens) == 2 else ""
        yield self._paired[key]
        if other == "student" and {one.attention, two.attention} == {"packed", "padded"} and not is_asked(run):
            yield ATTENTION

    def _model(self, run: Run, role: str) -> Any | None:
        """The model on the meta device, not to be changed; None where its shape is not known."""
        key, (config, cuts) = _key(run, role), origin_of(run, role)
        if key not in self._made:
            shape = self.models.shape(config)
            model = None if shape is None else shape.model
            if model is not None and cuts:
                model = copy.deepcopy(model)
                model = None if _error(_cut, model, cuts) else model  # the stage that cuts is told of
            self._made[key] = model
        return self._made[key]


def _error(check: Callable[..., Any], *arguments: Any) -> str:
    """The message of the TutelageError that `check` raises; "" for none."""
    try:
        check(*arguments)
    except TutelageError as error:
        return str(error)
    return ""


def _key(run: Run, role: str) -> str:
    config, cuts = origin_of(run, role)
    return " ".join(one.model_dump_json() for one in (config, *cuts))


def _cut(model: Any, cuts: Sequence[PruneConfig]) -> None:
    """Cut a model in place. Where a measurement will choose among layers that differ, it stays whole."""
    for cut in cuts:
        layers = decoder_layers(model)
        keep = fixed_layers(cut, len(layers))
        if keep is None and len({tuple(name for name, _ in layer.named_modules()) for layer in layers}) == 1:
            keep = range(cut.layers or 0)
        if keep is not None:
            prune_layers(model, keep)


def _adapter_text(run: Run, role: str) -> str:
    """Words on a model that is an adapter, and what to do; "" for a whole one."""
    maker = maker_of(run, role)
    if maker is not None:
        kept = maker.lora is not None and maker.lora.keep_adapter
        return f"that of stage `{maker.stage}` is kept as an adapter: remove `lora.keep_adapter`" if kept else ""
    path = run.models[role].path
    found = not _error(locate, run.models[role]) and is_adapter(Path(locate(run.models[role])[0]))
    return f"`{path}` is an adapter: `tutelage export --merge` it first" if found else ""
