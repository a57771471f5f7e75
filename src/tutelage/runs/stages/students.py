"""The models of a training run: the student, with an adapter if it trains one, its teacher, and saving the student.

A run with an adapter leaves two folders: `model`, the whole model (with `keep_adapter` the adapter alone, which names
its base), and `adapter`. A later run with the same adapter settings goes on with that adapter on the same frozen
weights, which a teacher may then share; with other settings it starts a new adapter on the whole model.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.run_folder import MODEL
from tutelage.data.teacher_prompts import same_rendering
from tutelage.models.files import save_model, weights_fingerprint
from tutelage.models.load import LoadedModel, compute_type, load_model, load_template
from tutelage.models.lora import add_adapter, is_adapter, load_adapter, merged_model, save_adapter, trainable_weights
from tutelage.models.sharding import plain_copy
from tutelage.models.vocabulary import check_vocabularies, head_notice
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.run import Run, adapter_line, frozen_base

ADAPTER = "adapter"  # folder of a run's adapter, where `model` holds the whole model
FULL_RATE = 2e-5  # a learning rate below it is one for all weights


def load_student(run: Run, sharded: bool) -> LoadedModel:
    """The student on the run's device: float32 weights to be trained, or frozen ones in the compute type with a float32
    adapter.

    Raises TutelageError as `load_model` and `add_adapter` do.
    """
    training, lora = run.training, run.lora
    assert training is not None
    compute = compute_type(training.precision, torch.device(run.device)) if sharded else None
    if lora is None:
        return load_model(run.models["student"], run.device, torch.float32, sharded, compute)
    line = adapter_line(run)
    before = line[1].folder if len(line) > 1 else None
    base = frozen_base(run).model_copy(update={"precision": lora.base})

    def prepare(model: object) -> None:
        add_adapter(model, lora, run.seed)
        if before is not None:
            load_adapter(model, before / (MODEL if is_adapter(before / MODEL) else ADAPTER))

    student = load_model(base, run.device, _frozen_type(run), sharded, compute, prepare)
    learnt = trainable_weights(student.model)
    start = f"goes on with the adapter of `{line[1].stage}`" if before is not None else "trains a new adapter"
    print(f"{run.stage}: {start}: {learnt:,} weights (r = {lora.r}, α = {lora.scale * lora.r:g})", flush=True)
    if training.learning_rate < FULL_RATE:
        print(
            f"note: {run.stage}: learning rate {training.learning_rate:g} is one for all weights; adapters learn at "
            "about ten times as much (1e-4)",
            flush=True,
        )
    return student


def load_teacher(run: Run, student: LoadedModel, sharded: bool) -> tuple[LoadedModel, bool]:
    """The teacher in the compute type (frozen, it needs no float32 copy), and whether it is the student's own frozen
    weights. Raises TutelageError as `load_model` does."""
    loaded = _shared_base(run, student)
    if loaded is None:
        return load_model(run.models["teacher"], run.device, _frozen_type(run), sharded), False
    print(f"{run.stage}: the teacher is the student's frozen base: its weights are held once", flush=True)
    return loaded, True


def check_pair(run: Run, student: LoadedModel, loaded: LoadedModel) -> None:
    """Check the teacher `loaded` against the student, and print what a user should know of the two.

    Raises TutelageError where they do not fit together.
    """
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
    for notice in filter(None, notices):
        print(f"{run.stage}: {notice}", flush=True)


def save_student(run: Run, student: LoadedModel, sharded: bool, write: bool) -> None:
    """Save the student into the run's folder. All ranks of a sharded model call this; the one with `write` writes."""
    model = plain_copy(student.model, device="cpu" if write else "meta") if sharded else student.model
    if not write:
        return
    template, folder = student.template, run.folder
    rest = (student.tokenizer, folder / MODEL, template.text, template.end_of_turn_ids)
    if run.lora is None:
        save_model(model, *rest)
        return
    base = frozen_base(run)
    named = _base_path(base)
    if run.lora.keep_adapter:
        save_model(model, *rest, write=lambda target: save_adapter(model, target, named, base.revision))
        return
    save_adapter(model, folder / ADAPTER, named, base.revision)
    save_model(merged_model(model), *rest)


def _shared_base(run: Run, student: LoadedModel) -> LoadedModel | None:
    """The teacher with the student's weights, if those are its own: the same files, held in the same type."""
    if run.lora is None or run.training is None:
        return None
    config, base = run.models["teacher"], frozen_base(run)
    rounded = run.training.precision == "pure_bfloat16" and _frozen_type(run) != torch.bfloat16
    if rounded or run.lora.base != config.precision or not _same_weights(config, base):
        return None
    template, _ = load_template(config)
    if template.end_of_turn_id != student.template.end_of_turn_id:  # the teacher's two rows would be exchanged
        return None
    return dataclasses.replace(student, tokenizer=template.tokenizer, template=template, name=config.path)


def _same_weights(a: ModelConfig, b: ModelConfig) -> bool:
    return (a.path, a.revision) == (b.path, b.revision) or weights_fingerprint(a) == weights_fingerprint(b)


def _frozen_type(run: Run) -> torch.dtype:
    """The type of weights that are not trained."""
    wide = run.device == "cpu" or (run.training is not None and run.training.precision == "float32")
    return torch.float32 if wide else torch.bfloat16


def _base_path(base: ModelConfig) -> str:
    """The base's path for an adapter's configuration: absolute where it is a local one."""
    local = Path(os.path.expandvars(base.path)).expanduser()
    return str(local.resolve()) if local.exists() else base.path
