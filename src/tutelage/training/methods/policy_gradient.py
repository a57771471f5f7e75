"""Reverse KL by policy gradient: on the student's own samples, log S − log T of the sampled token is the cost."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from tutelage.loss.objective import Objective
from tutelage.training.job import Job


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Objective):
    scale: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        return True

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        assert teacher_logits is not None
        student, teacher = (
            z.log_softmax(-1).gather(-1, labels[:, None])[:, 0] for z in (student_logits, teacher_logits)
        )
        return self.scale * (student - teacher).detach() * student


def build(job: Job, options: dict[str, Any]) -> Job:
    return dataclasses.replace(job, objective=PolicyGradient(**options))
