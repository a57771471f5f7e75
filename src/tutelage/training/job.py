"""The inputs of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.common.types import TokenSequence
from tutelage.loss.objective import CrossEntropy, Objective, WeightedSum
from tutelage.models.load import LoadedModel
from tutelage.recipe.sections import TrainingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.teachers.protocol import Teacher
from tutelage.training.on_policy import RolloutPlan
from tutelage.training.shown_answers import Asked


@dataclass(frozen=True)
class Job:
    """The inputs of a training run."""

    student: LoadedModel  # trained in place
    teacher: Teacher | None  # None for objectives without a teacher
    objective: Objective
    examples: Sequence[TokenSequence]
    validation: Sequence[TokenSequence]
    rollouts: RolloutPlan | None  # None: the data's responses only
    sampler: Sampler | None  # of the student's responses; None if λ is 0
    config: TrainingConfig
    seed: int
    folder: Path  # of the run: metrics and checkpoints
    fingerprint: str  # of the run; a checkpoint with another one is refused
    title: str = "training"  # of the progress line
    asked: Asked | None = None  # a row that the student answers now and then, for people to read
    ce_weight: float = 0.0  # α: the loss is α · cross-entropy on the data's responses + (1 − α) · `objective`

    def objective_of(self, sampled: bool) -> Objective:
        """The objective of a response token; `sampled`: the student wrote the response."""
        if self.ce_weight == 0.0:
            return self.objective
        distilled = (1.0 - self.ce_weight, self.objective)
        return WeightedSum((distilled,) if sampled else ((self.ce_weight, CrossEntropy()), distilled))
