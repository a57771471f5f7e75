"""Token-level divergences between teacher and student (the paper's eq. 2 and 3). Pure tensors, never reduced.

Everything is written in terms of δ = log S − log T, taken from the *difference of the logits* and not of two
log-softmaxes: a teacher fine-tuned on the student's own data is nearly equal to it, and there the difference of two
rounded log-probabilities would be mostly rounding. Each divergence is then a sum of non-negative terms such as
Σ T·(expm1(δ) − δ), so that small values keep their leading digits.

With M = β·T + (1−β)·S:   M/T = 1 + (1−β)·expm1(δ)   and   M/S = 1 + β·expm1(−δ).

All functions take logits [..., V] of the same shape and return nats [...]. Half precision is raised to float32;
float64 stays float64. Gradients flow through both arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Beyond this |δ| one probability is 1e8 times the other: differences of probabilities lose nothing any more, while
# exp(δ) could overflow.
_LARGE_DELTA = 20.0


def generalized_jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float, temperature: float = 1.0) -> Tensor:
    """JSD_β(T ‖ S) = β·KL(T ‖ M) + (1−β)·KL(S ‖ M), M = β·T + (1−β)·S (eq. 3), per token, in nats.

    `beta=0` is KL(T ‖ S) and `beta=1` is KL(S ‖ T): the limits of JSD_β/β and of JSD_β/(1−β), not of JSD_β itself,
    which is 0 at both ends. Both logits are divided by `temperature` first; the result is not rescaled.

    Raises ValueError for β outside [0, 1], a temperature that is not positive, or shapes that differ.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    if beta == 0.0:
        return forward_kl(student_logits, teacher_logits, temperature)
    if beta == 1.0:
        return reverse_kl(student_logits, teacher_logits, temperature)
    student, teacher, delta = _probabilities(student_logits, teacher_logits, temperature)
    teacher_part = _kl_to_mixture(teacher, student, delta, 1.0 - beta)
    student_part = _kl_to_mixture(student, teacher, -delta, beta)
    return beta * teacher_part + (1.0 - beta) * student_part


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(T ‖ S) = Σ T·(log T − log S) per token, in nats. Mode covering."""
    student, teacher, delta = _probabilities(student_logits, teacher_logits, temperature)
    return _kl(teacher, student, delta)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(S ‖ T) = Σ S·(log S − log T) per token, in nats. Mode seeking."""
    student, teacher, delta = _probabilities(student_logits, teacher_logits, temperature)
    return _kl(student, teacher, -delta)


def entropy(logits: Tensor) -> Tensor:
    """−Σ p·log p per token, in nats."""
    logits = _at_least_float32(logits)
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Both distributions and δ = log S − log T, each [..., V]."""
    if temperature <= 0.0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"logits differ in shape: {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}")
    student_logits, teacher_logits = _at_least_float32(student_logits), _at_least_float32(teacher_logits)
    if temperature != 1.0:
        student_logits, teacher_logits = student_logits / temperature, teacher_logits / temperature
    student_norm = student_logits.logsumexp(-1, keepdim=True)
    teacher_norm = teacher_logits.logsumexp(-1, keepdim=True)
    # An error c in the normalisers shifts every δ alike and costs only c·KL, since Σ T·δ is itself −KL.
    delta = (student_logits - teacher_logits) - (student_norm - teacher_norm)
    return (student_logits - student_norm).exp(), (teacher_logits - teacher_norm).exp(), delta


def _kl(p: Tensor, q: Tensor, delta: Tensor) -> Tensor:
    """KL(p ‖ q) with δ = log q − log p: Σ p·(expm1(δ) − δ), where p·expm1(δ) = q − p for large δ."""
    bounded = delta.clamp(max=_LARGE_DELTA)
    terms = torch.where(delta > _LARGE_DELTA, (q - p) - p * delta, p * (torch.expm1(bounded) - bounded))
    return terms.sum(-1)


def _kl_to_mixture(p: Tensor, q: Tensor, delta: Tensor, share: float) -> Tensor:
    """KL(p ‖ (1−share)·p + share·q) with δ = log q − log p: Σ p·(u − log1p(u)), u = share·expm1(δ)."""
    u = share * torch.expm1(delta.clamp(max=_LARGE_DELTA))
    large = share * (q - p) - p * (delta.clamp(min=_LARGE_DELTA) + torch.log(torch.tensor(share, dtype=p.dtype)))
    return torch.where(delta > _LARGE_DELTA, large, p * (u - torch.log1p(u))).sum(-1)
