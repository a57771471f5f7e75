"""Whether a training run compiles its models' layers (`training.compile`)."""

from __future__ import annotations

from typing import Any

from tutelage.common.progress import tell
from tutelage.data.large.stored import lengths_of
from tutelage.models.compiled import compile_layers
from tutelage.recipe.sections import COMPILE_FLOP
from tutelage.teachers.local import LocalTeacher
from tutelage.training.job import Job


def compile_models(job: Job, student: Any, steps: int, backend: str = "inductor") -> list[str]:
    """Compile the layers of the models that a run of `steps` steps computes with, if its settings say so.

    `student`: the model that computes for the job's student. Returns whose layers will be compiled.
    """
    config = job.config
    local = job.teacher if isinstance(job.teacher, LocalTeacher) else None
    if config.compile == "off" or (config.compile == "auto" and run_flop(job, steps) < COMPILE_FLOP):
        return []
    models = {"student": student} | ({} if local is None else {"teacher": local.loaded.model})
    first = next(student.parameters())
    if config.compile == "auto" and (first.device.type != "cuda" or config.precision == "float32"):
        return []
    found = [name for name, model in models.items() if compile_layers(model, name == "student", backend)]
    if found:
        tell(f"compiles the layers of {' and '.join(found)} in its first steps", job.title)
    return found


def run_flop(job: Job, steps: int) -> float:
    """Floating-point operations of a run: per token 6 for each weight of the student, 2 for each of a teacher here."""
    per_token = 6 * sum(p.numel() for p in job.student.model.parameters())
    if isinstance(job.teacher, LocalTeacher):
        per_token += 2 * sum(p.numel() for p in job.teacher.loaded.model.parameters())
    lengths = lengths_of(job.examples)
    tokens = float(lengths.sum()) / max(1, len(lengths))
    return per_token * tokens * job.config.batch_size * steps
