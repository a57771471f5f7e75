"""The teacher of a training run: loaded in its process, or asked elsewhere."""

from __future__ import annotations

import torch

from tutelage.common.errors import TutelageError
from tutelage.data.teacher_prompts import same_rendering
from tutelage.models.files import model_fingerprint
from tutelage.models.load import LoadedModel, load_model, load_shape
from tutelage.models.vocabulary import check_vocabularies, head_notice
from tutelage.recipe.stages import DistillStage, SignalConfig
from tutelage.runs.run import Run
from tutelage.teachers.local import LocalTeacher
from tutelage.teachers.protocol import AskedTeacher, Teacher
from tutelage.teachers.served import ServedSource


def load_teacher(run: Run, student: LoadedModel, sharded: bool) -> LoadedModel:
    """Load the teacher in the compute type (frozen, it needs no float32 copy) and check it against the student.

    Of one elsewhere only the tokenizer and the shapes are read.
    """
    elsewhere = signal_of(run).elsewhere
    if elsewhere:
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
    for notice in filter(None, notices):
        print(f"{run.stage}: {notice}", flush=True)
    return loaded


def teacher_of(run: Run, student: LoadedModel, loaded: LoadedModel) -> Teacher:
    """The teacher that the trainer asks; `loaded`: as `load_teacher` gives it."""
    signal, end = signal_of(run), student.template.end_of_turn_id
    if not signal.elsewhere:
        return LocalTeacher(loaded, end)
    device = next(student.model.parameters()).device
    precision = str(_precision(run)).removeprefix("torch.")
    assert signal.served is not None
    source = ServedSource(signal.served, loaded.name, model_fingerprint(run.models["teacher"]), precision, signal.wait)
    return AskedTeacher(source, device, end, loaded.template.end_of_turn_id)


def signal_of(run: Run) -> SignalConfig:
    """Where the run's teacher is."""
    return run.config.signal if isinstance(run.config, DistillStage) else SignalConfig()


def _precision(run: Run) -> torch.dtype:
    wide = run.device == "cpu" or (run.training is not None and run.training.precision == "float32")
    return torch.float32 if wide else torch.bfloat16
