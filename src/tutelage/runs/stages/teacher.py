"""The teacher of a training run: loaded in its process, or asked elsewhere, or read from what is kept on disk."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.progress import tell
from tutelage.common.types import TokenSequence
from tutelage.data.teacher_prompts import same_rendering
from tutelage.models.files import model_fingerprint, weights_fingerprint
from tutelage.models.limits import embedding_rows
from tutelage.models.load import LoadedModel, load_model, load_shape, load_template
from tutelage.models.vocabulary import check_vocabularies, head_notice
from tutelage.recipe.sections import ModelConfig
from tutelage.recipe.stages import DistillStage, SignalConfig
from tutelage.runs.fingerprints import METHOD_VERSION
from tutelage.runs.run import Run, frozen_base
from tutelage.runs.stages.students import beside, frozen_type
from tutelage.teachers.asked import AskedTeacher
from tutelage.teachers.cached import CachedSource, fill
from tutelage.teachers.local import LocalSource, LocalTeacher
from tutelage.teachers.openai import OpenAISource
from tutelage.teachers.protocol import Source, Teacher, question_of_sequence
from tutelage.teachers.served import ServedSource
from tutelage.teachers.shards import FORMAT, Form, ShardStore
from tutelage.teachers.top_k import TopKSource

CACHE = "teacher-cache"  # in the folder of all runs
ATTENTION = "teacher and student need the same `attention` (packed or padded): set it in both"


def load_teacher(run: Run, student: LoadedModel, sharded: bool | Literal["host"]) -> tuple[LoadedModel, bool]:
    """The teacher in the compute type (frozen, it needs no float32 copy), and whether it is the student's own frozen
    weights, which an adapter leaves as they are. With `attention: auto` it runs padded beside a padded student.

    Where no response of the student is to be read here, only the tokenizer and the shapes are loaded. Raises
    TutelageError as `load_model` does.
    """
    signal, config = signal_of(run), beside(run.models["teacher"], padded=not student.packed)
    # Ranks that share the student fill a cache at different times, so they cannot ask it together.
    loaded = None if signal.elsewhere or (sharded and signal.cache is not None) else _shared_base(run, student)
    if loaded is not None:
        tell("the teacher is the student's frozen base: its weights are held once", run.stage)
        return loaded, True
    if is_asked(run):
        return load_shape(config, student.packed), False
    return load_model(config, run.device, frozen_type(run), sharded), False


def check_pair(run: Run, student: LoadedModel, loaded: LoadedModel) -> None:
    """Check the teacher `loaded` against the student, and print what a user should know of the two.

    Raises TutelageError where they do not fit together.
    """
    notices = [
        check_vocabularies(loaded.tokenizer, student.tokenizer),
        head_notice(loaded.model, student.model),
    ]
    if loaded.packed != student.packed:
        raise TutelageError(f"stage `{run.stage}`: {ATTENTION}")
    if not same_rendering(student.template, loaded.template):
        notices.append(
            "teacher and student have different chat templates: each reads prompts in its own, and the teacher scores "
            "the student's response tokens"
        )
    signal = signal_of(run)
    if signal.approximate:
        notices.append(
            f"approximate: of the teacher only the {signal.top_k} likeliest tokens count, all others as one: the loss "
            "is a lower bound of the exact one, and `loss_error_bound` in metrics.jsonl bounds the difference"
        )
    for notice in filter(None, notices):
        tell(notice, run.stage)


def teacher_of(
    run: Run, student: LoadedModel, loaded: LoadedModel, shared: bool, sections: Sequence[Sequence[TokenSequence]]
) -> Teacher:
    """The teacher that the trainer asks. `loaded`, `shared`: as `load_teacher` gives them; `sections`: all rows of the
    run.

    With `signal.cache` this computes what is not kept yet.
    """
    signal, end, own_end = signal_of(run), student.template.end_of_turn_id, loaded.template.end_of_turn_id
    if not signal.elsewhere and signal.cache is None:
        return LocalTeacher(loaded, end, shared)
    source = _source_elsewhere(run, loaded) if signal.elsewhere else None
    if source is None and (shared or not is_asked(run)):
        source = _reduced(LocalSource(loaded, shared=shared), signal)
    if signal.cache is not None:
        pair = None if end == own_end else (own_end, end)
        store = _store(run, loaded)
        questions = [[question_of_sequence(row).exchanged(pair) for row in section] for section in sections]
        fill(store, store.plan(questions), lambda: source or _loaded_for_once(run), run.stage)
        source = CachedSource(store, loaded.name, source)
        gc.collect()
        if run.device == "cuda":
            torch.cuda.empty_cache()  # of the teacher that was loaded for once
    assert source is not None
    return AskedTeacher(source, next(student.model.parameters()).device, end, own_end)


def signal_of(run: Run) -> SignalConfig:
    """Where the run's teacher is."""
    return run.config.signal if isinstance(run.config, DistillStage) else SignalConfig()


def is_asked(run: Run) -> bool:
    """Whether the teacher's weights are not held while the student trains."""
    signal = signal_of(run)
    return signal.elsewhere or (signal.cache is not None and run.config.on_policy == 0.0)


def _source_elsewhere(run: Run, loaded: LoadedModel) -> Source:
    signal = signal_of(run)
    if signal.openai is not None:
        return endpoint_source(run, loaded, signal.wait)
    assert signal.served is not None
    return _reduced(served_source(run, signal.served, signal.wait), signal)


def endpoint_source(run: Run, loaded: LoadedModel, wait: float) -> OpenAISource:
    """The run's teacher behind an OpenAI-compatible endpoint, which is not asked yet. `loaded`: its shapes."""
    signal, rows = signal_of(run), embedding_rows(loaded.model)
    assert signal.openai is not None
    model = signal.model or run.models["teacher"].path
    return OpenAISource(signal.openai, model, signal.top_k, loaded.name, rows, signal.api_key_env, wait)


def served_source(run: Run, url: str, wait: float) -> ServedSource:
    """The served teacher at an address. Raises TutelageError if it is not the run's, AwayError if none is there."""
    precision, config = str(frozen_type(run)).removeprefix("torch."), run.models["teacher"]
    # It reads token ids: which template or other tokenizer makes them is the student's side alone.
    asked = config.model_copy(update={"tokenizer": None, "chat_template": "auto"})
    return ServedSource(url, config.path, model_fingerprint(asked), precision, wait)


def _loaded_for_once(run: Run) -> Source:
    return _reduced(LocalSource(load_model(run.models["teacher"], run.device, frozen_type(run))), signal_of(run))


def _reduced(source: LocalSource | ServedSource, signal: SignalConfig) -> Source:
    return TopKSource(source, signal.top_k) if signal.cache == "top_k" else source


def _store(run: Run, loaded: LoadedModel) -> ShardStore:
    """The shards of this teacher in this form. What it computes in and by which version counts, not where it is."""
    signal, kind, config = signal_of(run), frozen_type(run), run.models["teacher"]
    form = Form(kind, loaded.model.get_output_embeddings().weight.shape[1])
    if signal.cache == "bfloat16":
        form = replace(form, dtype=torch.bfloat16)
    if signal.cache == "top_k":
        form = replace(form, top_k=signal.top_k)
    endpoint = [signal.openai, signal.model] if signal.openai else []
    held = [config.precision] if config.precision else []
    teacher = fingerprint(FORMAT, METHOD_VERSION, model_fingerprint(config), str(kind), endpoint, *held)
    return ShardStore(run.folder.parent / CACHE, teacher, form)


def _shared_base(run: Run, student: LoadedModel) -> LoadedModel | None:
    """The teacher with the student's weights, if those are its own: the same files, held in the same type."""
    if run.lora is None or run.training is None:
        return None
    config, base = run.models["teacher"], frozen_base(run)
    rounded = run.training.precision == "pure_bfloat16" and frozen_type(run) != torch.bfloat16
    if rounded or run.lora.base != config.precision or not _same_weights(config, base):
        return None
    template, _ = load_template(config)
    if template.end_of_turn_id != student.template.end_of_turn_id:  # the teacher's two rows would be exchanged
        return None
    return replace(student, tokenizer=template.tokenizer, template=template, name=config.path)


def _same_weights(a: ModelConfig, b: ModelConfig) -> bool:
    return (a.path, a.revision) == (b.path, b.revision) or weights_fingerprint(a) == weights_fingerprint(b)
