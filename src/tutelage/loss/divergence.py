"""Token-level divergences between teacher and student (the paper's eq. 2 and 3). Pure tensors, never reduced.

All formulas use δ = log S − log T, computed from the *difference of the logits*, not of two log-softmaxes: a teacher
fine-tuned on the student's own data is nearly equal to the student, and the difference of two rounded log-probabilities
would be mostly rounding error. Each divergence is then a sum of non-negative terms such as Σ T·(expm1(δ) − δ), so that
small values keep their leading digits.

With M = β·T + (1−β)·S:   M/T = 1 + (1−β)·expm1(δ)   and   M/S = 1 + β·expm1(−δ).

All functions take logits [..., V] of equal shape and return nats [...]. Half precision is converted to float32; float64
stays float64. Gradients flow through both arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Beyond this |δ| one probability is more than 1e8 times the other: the difference of probabilities is then exact, while
# exp(δ) could overflow.
_LARGE_DELTA = 20.0


def generalized_jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float, temperature: float = 1.0) -> Tensor:
    """JSD_β(T ‖ S) = β·KL(T ‖ M) + (1−β)·KL(S ‖ M), M = β·T + (1−β)·S (eq. 3), in nats per token [...].

    `beta=0` is KL(T ‖ S) and `beta=1` is KL(S ‖ T): the limits of JSD_β/β and of JSD_β/(1−β), not of JSD_β itself,
    which is 0 at both ends. Both logits are first divided by `temperature`; the result is not rescaled.

    Raises ValueError for β outside [0, 1], a temperature that is not positive, or logits of different shapes.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be in [0, 1], not {beta}")
    return jsd_and_ratio(distributions(student_logits, teacher_logits, temperature), beta)[0]


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(T ‖ S) = Σ T·(log T − log S) in nats per token [...]. Mode covering."""
    return generalized_jsd(student_logits, teacher_logits, 0.0, temperature)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(S ‖ T) = Σ S·(log S − log T) in nats per token [...]. Mode seeking."""
    return generalized_jsd(student_logits, teacher_logits, 1.0, temperature)


def entropy(logits: Tensor) -> Tensor:
    """−Σ p·log p in nats per token [...]."""
    logits = _at_least_float32(logits)
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class Distributions:
    """Both models' distributions of the same tokens, computed once and shared by values, gradients and statistics."""

    student: Tensor  # probabilities [..., V]
    student_norm: Tensor  # log Σ exp of the logits [..., 1]
    teacher: Tensor | None
    teacher_norm: Tensor | None
    delta: Tensor | None  # log S − log T [..., V]


def distributions(student_logits: Tensor, teacher_logits: Tensor | None, temperature: float = 1.0) -> Distributions:
    """Both distributions at `temperature`; without teacher logits, the student's alone.

    Raises ValueError for a temperature that is not positive, or logits of different shapes.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    student_logits = _at_least_float32(student_logits)
    if temperature != 1.0:
        student_logits = student_logits / temperature
    student_norm = student_logits.logsumexp(-1, keepdim=True)
    student = (student_logits - student_norm).exp()
    if teacher_logits is None:
        return Distributions(student, student_norm, None, None, None)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"logits differ in shape: {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}")
    teacher_logits = _at_least_float32(teacher_logits)
    if temperature != 1.0:
        teacher_logits = teacher_logits / temperature
    teacher_norm = teacher_logits.logsumexp(-1, keepdim=True)
    # An error c of the normalisers shifts every δ equally and changes the result by only c·KL, since Σ T·δ = −KL.
    delta = (student_logits - teacher_logits) - (student_norm - teacher_norm)
    return Distributions(student, student_norm, (teacher_logits - teacher_norm).exp(), teacher_norm, delta)


def jsd_and_ratio(both: Distributions, beta: float) -> tuple[Tensor, Tensor]:
    """JSD_β [...] as `generalized_jsd` defines it, and the log-ratio [..., V] that its gradient needs.

    The ratio is log(S/M) for 0 < β < 1, and δ = log(S/T) for β = 0 and 1.
    """
    student, teacher, delta = both.student, both.teacher, both.delta
    assert teacher is not None
    assert delta is not None
    if beta == 0.0:
        return _kl(teacher, student, delta), delta
    if beta == 1.0:
        return _kl(student, teacher, -delta), delta
    teacher_part, _ = _kl_to_mixture(teacher, student, delta, 1.0 - beta)
    student_part, log_mixture = _kl_to_mixture(student, teacher, -delta, beta)
    return beta * teacher_part + (1.0 - beta) * student_part, -log_mixture


def _kl(p: Tensor, q: Tensor, delta: Tensor) -> Tensor:
    """KL(p ‖ q) with δ = log q − log p: Σ p·(expm1(δ) − δ), where p·expm1(δ) = q − p for large δ."""
    bounded = delta.clamp(max=_LARGE_DELTA)
    terms = torch.where(delta > _LARGE_DELTA, (q - p) - p * delta, p * (torch.expm1(bounded) - bounded))
    return terms.sum(-1)


def _kl_to_mixture(p: Tensor, q: Tensor, delta: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """KL(p ‖ M) and log(M/p), M = (1−share)·p + share·q, δ = log q − log p: Σ p·(u − log1p(u)), u = share·expm1(δ)."""
    large = delta > _LARGE_DELTA
    u = share * torch.expm1(delta.clamp(max=_LARGE_DELTA))
    log_ratio = torch.where(large, delta + math.log(share), torch.log1p(u))
    return torch.where(large, share * (q - p) - p * log_ratio, p * (u - log_ratio)).sum(-1), log_ratio
