"""Fingerprints: twelve hex digits that change when anything that changes a run's result does.

What counts: `METHOD_VERSION`, the config without its names and labels, seed, device, the fingerprints of models, data
and parents, the code that turns files into rows and these into tokens (`rows_code`), and that of a synthesis. What does
not: names, labels, how often state is saved, how memory is used, the git commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.data.dataset import declared_fingerprint, load_dataset
from tutelage.data.sources import local_files
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.models.files import is_here, model_fingerprint
from tutelage.models.vocabulary import PROBE, check_vocabularies
from tutelage.recipe.sections import DataConfig, ModelConfig, TrainingConfig
from tutelage.recipe.stages import SynthesizeStage
from tutelage.recipe.study import BenchmarkTask
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.rows.seen import SeenRows

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint
    from tutelage.runs.run import Run

    Reads = tuple[ChatTemplate, int | None]  # what a model reads: by its template, so many tokens (`load_template`)

# Raised by hand whenever the code changes what a run computes; results made before are then not reused.
METHOD_VERSION = 5

# Keys of a stage that do not change its result, or whose content is in the fingerprint already: names of models and of
# data sections stand for their content, `training` for the resolved section.
_NOT_CONTENT = {"name", "label", "shared", "training", "search", "epochs_of", "student", "teacher", "model", "data"} | {
    "gold",
    "generator",
    "annotator",
    "min_acceptance",
    "signal",  # where the teacher is does not change what it says; its `identity` is added
}
# Keys that count only if set, so that runs from before they existed keep their fingerprints.
_LATER = {"ce_weight", "own_answers"}
# How often state is saved, and how memory is used, does not change what is computed.
COSMETIC = {"checkpoint_every", "tokens_per_micro_batch", "memory_gib", "trackers", "gradient_checkpointing", "shard"}
COSMETIC |= {"compile"}

# Keys of a model section that do not change which text and tokens the model reads.
NOT_READ: dict[str, Any] = {"attention": "auto", "lora": None, "precision": None, "tensor_parallel": None}

_CHANGED = "its files changed after this run was planned: run the same command again, which plans it with them"


def rows_code() -> list[str]:
    """Fingerprints of the code that turns files into rows, and rows into tokens and labels; they change with it, and
    not with its comments."""
    return [_code_of(name) for name in ("dataset", "encode_rows", "align_rows")]


def _synthesis_code() -> str:
    """Fingerprint of the code that makes and filters synthetic rows: no set is of two versions."""
    return reading_fingerprint("tutelage.synthesis.synthesis", package="tutelage.synthesis")


def _code_of(module: str) -> str:
    return reading_fingerprint(f"tutelage.data.{module}", package="tutelage.data")


def _rows(data: Sequence[str]) -> list[str]:
    """What says which rows a run reads: the fingerprints of its data, and the code that reads them; empty without."""
    return [*data, *rows_code()] if data else []


def stage_fingerprint(
    stage: Any,
    training: TrainingConfig | None,
    seed: int,
    models: dict[str, str],
    data: Sequence[str],
    device: str,
    extra: Sequence[str] = (),
) -> str:
    """Fingerprint of a run that makes a model or data. `stage`: its config; `models` (by role) and `data`: fingerprints
    of its inputs; `extra`: what else changes the result."""
    unset = {key for key in _LATER if not getattr(stage, key, None)}
    content = stage.model_dump(exclude=_NOT_CONTENT | unset)
    signal = getattr(stage, "signal", None)
    if signal is not None and signal.identity is not None:
        content["signal"] = signal.identity
    resolved = None if training is None else training.model_dump(exclude=COSMETIC)
    code = [_synthesis_code()] if isinstance(stage, SynthesizeStage) else []
    return fingerprint(METHOD_VERSION, content, resolved, seed, models, _rows(data), device, *extra, *code)


def evaluation_fingerprint(
    kind: str, task: Any, seed: int, models: dict[str, str], data: Sequence[str], device: str, reading: str = ""
) -> str:
    """Fingerprint of a run that measures a model: of what is sampled and, after an underscore, of how it is read.
    `scored_by` adds who else scores it.

    `task`: the task's config; `reading`: the fingerprint of the code that scores (`evaluation/readers/fingerprint.py`),
    empty where nothing is read; the others as in `stage_fingerprint`. Runs that differ in the reading alone have the
    same replies, which are scored again instead of sampled.
    """
    if kind == "evaluate":  # a task of the recipe, which reads one data section
        sampling = fingerprint(METHOD_VERSION, task, seed, models, *_rows(data), device)
    else:
        content = task.content() if isinstance(task, BenchmarkTask) else task
        code = _rows(data) or [_code_of("chat_template")]  # a benchmark's prompts go through it too
        sampling = fingerprint(METHOD_VERSION, kind, content, seed, models, code, device)
    return f"{sampling}_{reading}" if reading else sampling


def scored_by(run_fingerprint: str, judge: JudgeEndpoint | None = None, comet: bool = False) -> str:
    """The fingerprint of an evaluation that a judge or COMET also scores: one more part after an underscore."""
    return "_".join([run_fingerprint, *([judge.fingerprint] if judge else []), *(["comet"] if comet else [])])


def sampling_of(run_fingerprint: str) -> str:
    """The part of an evaluation's fingerprint that says what is sampled."""
    return run_fingerprint.partition("_")[0]


def refuse_changed(run: Run) -> None:
    """Raise TutelageError if a local file that the run reads is not as it was when the run got its fingerprint."""
    for name, (planned, responses) in run.planned_data.items():
        config = run.data[name]
        if local_files(name, config, run.recipe_folder) is None:  # on the hub
            continue
        if declared_fingerprint(name, config, run.recipe_folder, responses) != planned:
            raise TutelageError(f"data.{name}: {_CHANGED}")
    for role, planned in run.planned_models.items():
        config = run.models.get(role) or run.answers_for
        assert config is not None
        if fingerprint(config, model_fingerprint(config, hub=False)) != planned:
            raise TutelageError(f"{role} `{config.path}`: {_CHANGED}")


def questions_read(student: Reads, teacher: Reads, max_length: int) -> tuple[int, str]:
    """How many tokens of a question the student of a SeqKD stage reads, and a fingerprint of the text and tokens that
    rows become for it; `max_length` and "" where it reads whatever the teacher does."""
    from tutelage.data.teacher_prompts import same_rendering

    (own, context), (other, other_context) = student, teacher
    length, tokenizer = min(max_length, context or max_length), own.tokenizer
    with contextlib.suppress(TutelageError):
        check_vocabularies(other.tokenizer, tokenizer)
        if same_rendering(own, other):
            return length if length < (other_context or max_length) else max_length, ""
    tokens = [tokenizer.get_vocab(), tokenizer.encode(PROBE, add_special_tokens=False), tokenizer.bos_token]
    return length, fingerprint(own.text, own.thinking, *tokens)


class InputFingerprints:
    """Fingerprints of data sections and models, each computed once.

    With `declared`, data and models on the hub count as name@revision, and nothing but local files is read. `known` may
    be shared by several instances. Where `absent` is a list, data and models that are not here do not raise: the error
    is added to the list, and the fingerprint is a provisional one.
    """

    def __init__(
        self, declared: bool = False, known: dict[str, str] | None = None, absent: list[str] | None = None
    ) -> None:
        self.declared, self.absent = declared, absent
        self.known = {} if known is None else known
        self._seen: dict[str, SeenRows] = {}
        self._hub = Hub(network=True)
        self._reads: dict[str, Reads | None] = {}
        self._questions: dict[str, tuple[int, str]] = {}

    def data(self, name: str, config: DataConfig, recipe_folder: Path, require_response: bool) -> str:
        """Fingerprint of the rows of data section `name`. Raises TutelageError when they cannot be read."""
        key = fingerprint(config, str(recipe_folder), require_response)
        if key in self.known:
            return self.known[key]
        try:
            if self.declared:
                found = declared_fingerprint(name, config, recipe_folder, require_response)
            else:
                loaded = load_dataset(name, config, recipe_folder, require_response)
                found = loaded.fingerprint
                self._seen[key] = SeenRows(loaded)
        except TutelageError as error:
            return self._provisional(config, error)
        self.known[key] = found
        return found

    def _provisional(self, config: DataConfig | ModelConfig, error: TutelageError) -> str:
        if self.absent is None:
            raise error
        self.absent.append(str(error))
        return f"absent:{config.model_dump_json()}"

    def seen(self, config: DataConfig, recipe_folder: Path, require_response: bool) -> SeenRows | None:
        """The rows of a section, if `data` has read it here."""
        return self._seen.get(fingerprint(config, str(recipe_folder), require_response))

    def model(self, config: ModelConfig, local: bool = False) -> str:
        """Fingerprint of a model's files, or of its hub id and commit; with `local` or declared, of id and revision.

        Template and tokenizer that are local files count wherever the model is."""
        hub = not (self.declared or local)
        key = fingerprint(config) if hub or self.declared else fingerprint("local", config)
        if key not in self.known:
            try:
                self.known[key] = model_fingerprint(config, hub=hub)
            except TutelageError as error:
                return self._provisional(config, error)
        return self.known[key]

    def questions(self, student: ModelConfig, teacher: ModelConfig, max_length: int) -> tuple[int, str]:
        """`questions_read` of two models. Where one is not known here, or declared and on the hub, whose cache does not
        count either, the student is taken to read whatever the teacher does."""
        student, teacher = (one.model_copy(update=NOT_READ) for one in (student, teacher))
        key = fingerprint(student, teacher, max_length)
        if key not in self._questions:
            self._questions[key] = max_length, ""
            if student != teacher and (own := self._read_by(student)) and (other := self._read_by(teacher)):
                self._questions[key] = questions_read(own, other, max_length)
        return self._questions[key]

    def _read_by(self, config: ModelConfig) -> Reads | None:
        from tutelage.models.load import load_template, small_files

        key = fingerprint(config)
        if key not in self._reads:
            self._reads[key] = None
            with contextlib.suppress(TutelageError):  # said by whoever loads it
                if is_here(config) or not (self.declared or self._hub.problem(config.path, "model")):
                    self._reads[key] = small_files(config, load_template, network=True)
        return self._reads[key]
