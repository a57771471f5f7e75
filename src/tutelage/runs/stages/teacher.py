"""The teacher of a training run: loaded in its process, or asked elsewhere, or read from what is kept on disk."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.types import TokenSequence
from tutelage.data.teacher_prompts import same_rendering
from tutelage.models.files import model_fingerprint
from tutelage.models.limits import embedding_rows
from tutelage.models.load import LoadedModel, load_model, load_shape
from tutelage.models.vocabulary import check_vocabularies, head_notice
from tutelage.recipe.stages import DistillStage, SignalConfig
from tutelage.runs.run import Run
from tutelage.teachers.asked import AskedTeacher
from tutelage.teachers.cached import CachedSource, fill
from tutelage.teachers.local import LocalSource, LocalTeacher
from tutelage.teachers.openai import OpenAISource
from tutelage.teachers.protocol import Source, Teacher, question_of_sequence
from tutelage.teachers.served import ServedSource
from tutelage.teachers.shards import FORMAT, Form, ShardStore
from tutelage.teachers.top_k import TopKSource

CACHE = "teacher-cache"  # in the folder of all runs


def load_teacher(run: Run, student: LoadedModel, sharded: bool) -> LoadedModel:
    """Load the teacher in the compute type (frozen, it needs no float32 copy) and check it against the student.

    Where no response of the student is to be read here, only the tokenizer and the shapes are.
    """
    if _is_asked(run):
        loaded = load_shape(run.models["teacher"], student.packed)
    else:
        loaded = load_model(run.models["teacher"], run.device, _precision(run), sharded)
    notices = [
        check_vocabularies(loaded.tokenizer, student.tokenizer),
        head_notice(loaded.model, student.model),
    ]
    if loaded.packed != student.packed:
        raise TutelageError(
            f"stage `{run.stage}`: teacher and student need the same `attention` (packed or padded): set it in both"
        )
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
        print(f"{run.stage}: {notice}", flush=True)
    return loaded


def teacher_of(
    run: Run, student: LoadedModel, loaded: LoadedModel, sections: Sequence[Sequence[TokenSequence]]
) -> Teacher:
    """The teacher that the trainer asks. `loaded`: as `load_teacher` gives it; `sections`: all rows of the run.

    With `signal.cache` this computes what is not kept yet.
    """
    signal, end, own_end = signal_of(run), student.template.end_of_turn_id, loaded.template.end_of_turn_id
    if not signal.elsewhere and signal.cache is None:
        return LocalTeacher(loaded, end)
    source = _source_elsewhere(run, loaded) if signal.elsewhere else None
    if source is None and not _is_asked(run):
        source = _reduced(LocalSource(loaded), signal)
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


def _is_asked(run: Run) -> bool:
    """Whether the teacher's weights are not held while the student trains."""
    signal = signal_of(run)
    return signal.elsewhere or (signal.cache is not None and run.config.on_policy == 0.0)


def _source_elsewhere(run: Run, loaded: LoadedModel) -> Source:
    signal, config = signal_of(run), run.models["teacher"]
    if signal.openai is not None:
        model, rows = signal.model or config.path, embedding_rows(loaded.model)
        return OpenAISource(signal.openai, model, signal.top_k, loaded.name, rows, signal.api_key_env, signal.wait)
    assert signal.served is not None
    return _reduced(served_source(run, signal.served, signal.wait), signal)


def served_source(run: Run, url: str, wait: float) -> ServedSource:
    """The served teacher at an address. Raises TutelageError if it is not the run's, AwayError if none is there."""
    precision, config = str(_precision(run)).removeprefix("torch."), run.models["teacher"]
    return ServedSource(url, config.path, model_fingerprint(config), precision, wait)


def _loaded_for_once(run: Run) -> Source:
    return _reduced(LocalSource(load_model(run.models["teacher"], run.device, _precision(run))), signal_of(run))


def _reduced(source: LocalSource | ServedSource, signal: SignalConfig) -> Source:
    return TopKSource(source, signal.top_k) if signal.cache == "top_k" else source


def _store(run: Run, loaded: LoadedModel) -> ShardStore:
    """The shards of this teacher in this form. What it computes in counts; where it is does not."""
    signal, precision = signal_of(run), _precision(run)
    form = Form(precision, loaded.model.get_output_embeddings().weight.shape[1])
    if signal.cache == "bfloat16":
        form = replace(form, dtype=torch.bfloat16)
    if signal.cache == "top_k":
        form = replace(form, top_k=signal.top_k)
    endpoint = [signal.openai, signal.model] if signal.openai else []
    teacher = fingerprint(FORMAT, model_fingerprint(run.models["teacher"]), str(precision), endpoint)
    return ShardStore(run.folder.parent / CACHE, teacher, form)


def _precision(run: Run) -> torch.dtype:
    wide = run.device == "cpu" or (run.training is not None and run.training.precision == "float32")
    return torch.float32 if wide else torch.bfloat16
