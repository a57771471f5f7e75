"""Everything that one training stage needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.common.types import TokenSequence
from tutelage.loss.objective import Objective
from tutelage.models.load import LoadedModel
from tutelage.recipe.sections import TrainingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.teachers.local import Teacher
from tutelage.training.on_policy import RolloutPlan


@dataclass(frozen=True)
class Job:
    """Everything one training stage needs."""

    student: LoadedModel
    teacher: Teacher | None
    objective: Objective
    examples: Sequence[TokenSequence]
    validation: Sequence[TokenSequence]
    rollouts: RolloutPlan | None
    sampler: Sampler | None
    config: TrainingConfig
    seed: int
    folder: Path
    fingerprint: str
    title: str = "training"
