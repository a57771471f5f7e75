"""Training objectives per token: cross-entropy, a divergence from the teacher, or a weighted sum of objectives.

An objective is a small frozen object that says whether it needs the teacher and maps logits to per-token values.
`__call__` is its definition, differentiable by autograd. The fused loss calls `value_and_gradient`: the same value and
its gradient with respect to the student's logits, derived by hand where that is cheaper. A new objective only has to
define `__call__`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.loss import divergence
from tutelage.loss.divergence import Distributions


@dataclass(frozen=True)
class Objective:
    """Base class: per-token values [n] in nats from logits [n, V] (float32 or float64) and labels [n]."""

    @property
    def needs_teacher(self) -> bool:
        """Whether `__call__` needs the teacher's logits."""
        return False

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        raise NotImplementedError  # a subclass is its definition; there is no sensible default

    def value_and_gradient(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        distributions: Distributions | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Values [n], detached, and the gradients d value[i] / d student_logits[i], [n, V].

        `distributions`: the distributions at temperature 1 if the caller has them; they are only read.
        """
        with torch.enable_grad():
            leaf = student_logits.detach().requires_grad_()
            values = self(leaf, teacher_logits, labels)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """−log S(label): for SFT on the data's responses, and for SeqKD on the teacher's."""

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(student_logits, labels, reduction="none")

    def value_and_gradient(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        distributions: Distributions | None = None,
    ) -> tuple[Tensor, Tensor]:
        fresh = divergence.distributions(student_logits, None) if distributions is None else distributions
        values = fresh.student_norm - student_logits.gather(-1, labels[:, None])
        gradient = fresh.student.scatter_add(-1, labels[:, None], torch.full_like(values, -1.0))
        return values.squeeze(-1), gradient


@dataclass(frozen=True)
class Divergence(Objective):
    """JSD_β between teacher and student (eq. 3); β = 0 is KL(T ‖ S), β = 1 is KL(S ‖ T)."""

    beta: float = 0.5
    temperature: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        return True

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        return divergence.generalized_jsd(student_logits, _given(teacher_logits), self.beta, self.temperature)

    def value_and_gradient(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        distributions: Distributions | None = None,
    ) -> tuple[Tensor, Tensor]:
        """d JSD_β / d z = (1−β)·S·(r − Σ S·r) with r = log(S / M); the terms of d M cancel.

        For β = 0 it is S − T, for β = 1 it is S·(r − Σ S·r) with r = log(S / T).
        """
        if distributions is None or self.temperature != 1.0:
            distributions = divergence.distributions(student_logits, _given(teacher_logits), self.temperature)
        values, ratio = divergence.jsd_and_ratio(distributions, self.beta)
        if self.beta == 0.0:
            gradient = distributions.student - _given(distributions.teacher)
        else:
            gradient = distributions.student * (ratio - torch.linalg.vecdot(distributions.student, ratio)[..., None])
        factor = 1.0 if self.beta in (0.0, 1.0) else 1.0 - self.beta
        if factor != self.temperature:
            gradient.mul_(factor / self.temperature)
        return values, gradient


@dataclass(frozen=True)
class WeightedSum(Objective):
    """Σ weight · objective per token, over the pairs in `parts`."""

    parts: tuple[tuple[float, Objective], ...]

    @property
    def needs_teacher(self) -> bool:
        return any(part.needs_teacher for _, part in self.parts)

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        terms = [weight * part(student_logits, teacher_logits, labels) for weight, part in self.parts]
        return torch.stack(terms).sum(0)

    def value_and_gradient(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        distributions: Distributions | None = None,
    ) -> tuple[Tensor, Tensor]:
        values = torch.zeros_like(student_logits[:, 0])
        gradient = torch.zeros_like(student_logits)
        for weight, part in self.parts:
            part_values, part_gradient = part.value_and_gradient(student_logits, teacher_logits, labels, distributions)
            values.add_(part_values, alpha=weight)
            gradient.add_(part_gradient, alpha=weight)
        return values, gradient


def _given(teacher_logits: Tensor | None) -> Tensor:
    """The teacher's logits or probabilities; TutelageError if there are none."""
    if teacher_logits is None:
        raise TutelageError("this objective compares with a teacher, and none was given: set `teacher` in the stage")
    return teacher_logits
