"""The student of a training run, with an adapter if it trains one: loading and saving it.

A run with an adapter leaves two folders: `model`, the whole model (with `keep_adapter` the adapter alone, which names
its base), and `adapter`. A later run with the same adapter settings goes on with that adapter on the same frozen
weights, which a teacher may then share; with other settings it starts a new adapter on the whole model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from tutelage.common.progress import cause_of, tell
from tutelage.common.run_folder import MODEL
from tutelage.models.checkpoints.save import save_model
from tutelage.models.load import LoadedModel, compute_type, load_model
from tutelage.models.sharding import plain_copy
from tutelage.models.surgery.lora import (
    add_adapter,
    is_adapter,
    load_adapter,
    merged_model,
    passed_over,
    save_adapter,
    trainable_weights,
)
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.run import Run, adapter_line, frozen_base

ADAPTER = "adapter"  # folder of a run's adapter, where `model` holds the whole model
FULL_RATE = 2e-5  # a learning rate below it is one for all weights


def load_student(run: Run, sharded: bool | Literal["host"]) -> LoadedModel:
    """The student on the run's device: float32 weights to be trained, or frozen ones in the compute type with a float32
    adapter. With `attention: auto` it runs padded beside a teacher that is set to.

    Raises TutelageError as `load_model` and `add_adapter` do.
    """
    training, lora = run.training, run.lora
    assert training is not None
    compute = compute_type(training.precision, torch.device(run.device)) if sharded else None
    beside_padded = "teacher" in run.models and run.models["teacher"].attention == "padded"
    if lora is None:
        config = beside(run.models["student"], beside_padded)
        return load_model(config, run.device, torch.float32, sharded, compute)
    line = adapter_line(run)
    before = line[1].folder if len(line) > 1 else None
    base = beside(frozen_base(run), beside_padded).model_copy(update={"precision": lora.base})

    def prepare(model: object) -> None:
        add_adapter(model, lora, run.seed)
        if before is not None:
            load_adapter(model, before / (MODEL if is_adapter(before / MODEL) else ADAPTER))

    student = load_model(base, run.device, frozen_type(run), sharded, compute, prepare)
    learnt = trainable_weights(student.model)
    start = f"goes on with the adapter of `{line[1].stage}`" if before is not None else "trains a new adapter"
    tell(f"{start}: {learnt:,} weights (r = {lora.r}, α = {lora.scale * lora.r:g})", run.stage)
    if lacking := passed_over(student.model, lora):
        notice = f"{run.stage} (seed {run.seed}): {lacking}"
        tell(notice, cause=cause_of(notice))
    if training.learning_rate < FULL_RATE:
        tell(
            f"learning rate {training.learning_rate:g} is one for all weights; adapters learn at about ten times as "
            "much (1e-4)",
            f"note: {run.stage}",
        )
    return student


def beside(config: ModelConfig, padded: bool) -> ModelConfig:
    """The model's section beside another model that runs padded: `attention: auto` is then `padded` too."""
    return config.model_copy(update={"attention": "padded"}) if padded and config.attention == "auto" else config


def save_student(run: Run, student: LoadedModel, sharded: bool, write: bool) -> None:
    """Save the student into the run's folder. All ranks of a sharded model call this; the one with `write` writes."""
    training = run.training
    kind = None if training is None or training.save_precision is None else getattr(torch, training.save_precision)
    model = student.model
    if sharded:  # one weight at a time is whole on the device
        model = plain_copy(model, None if run.lora else kind, "cpu" if write else "meta")
    if not write:
        return
    template, folder = student.template, run.folder
    rest = (student.tokenizer, folder / MODEL, template.text, template.end_of_turn_ids)
    if run.lora is None:
        save_model(plain_copy(model, kind, "cpu") if kind and not sharded else model, *rest)
        return
    base = frozen_base(run)
    named = _base_path(base)
    if run.lora.keep_adapter:
        save_model(model, *rest, write=lambda target: save_adapter(model, target, named, base.revision))
        return
    save_adapter(model, folder / ADAPTER, named, base.revision)
    merged = merged_model(model)
    save_model(merged.to(kind) if kind else merged, *rest)


def frozen_type(run: Run) -> torch.dtype:
    """The type of weights that are not trained: a teacher's, and an adapter's base."""
    wide = run.device == "cpu" or (run.training is not None and run.training.precision == "float32")
    return torch.float32 if wide else torch.bfloat16


def _base_path(base: ModelConfig) -> str:
    """The base's path for an adapter's configuration: absolute where it is a local one."""
    local = Path(os.path.expandvars(base.path)).expanduser()
    return str(local.resolve()) if local.exists() else base.path
