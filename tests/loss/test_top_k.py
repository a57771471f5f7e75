"""Divergences over the likeliest tokens and a tail: against float64 sums, autograd, and the exact divergence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head, TeacherSignal, TopLogprobs
from tutelage.loss import CrossEntropy, Divergence, generalized_jsd, linear_objective
from tutelage.loss.objective import WeightedSum
from tutelage.loss.top_k import buckets, error_bound, value_and_gradient
from tutelage.teachers.top_k import top_of, top_of_logprobs

N, V, K, D = 40, 61, 7, 16
BETAS = (0.0, 0.1, 0.5, 0.9)


def logits(seed: int, scale: float, base: Tensor | None = None, near: float = 1.0) -> Tensor:
    noise = torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * noise if base is None else base + near * noise


CASES = [(scale, near) for scale in (0.1, 1.0, 4.0) for near in (0.01, 1.0, 8.0)]


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0.0)


def jsd(p: list[float], q: list[float], beta: float) -> float:
    """Of distributions p (teacher) and q (student), by definition."""
    if beta == 0.0:
        return kl(p, q)
    mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def coarse(row: Tensor, ids: list[int]) -> list[float]:
    p = row.softmax(-1).tolist()
    return [*(p[i] for i in ids), math.fsum(p[i] for i in range(V) if i not in ids)]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("scale", "near"), CASES)
def test_values_are_those_of_the_buckets_and_the_exact_one_is_within_the_bound(
    beta: float, scale: float, near: float
) -> None:
    teacher = logits(1, scale)
    student = logits(2, scale, teacher, near)
    top, objective = top_of(teacher, K), Divergence(beta)
    top = TopLogprobs(top.ids, top.logprobs.double(), top.tail.double())
    labels = torch.zeros(N, dtype=torch.int64)
    values, _ = value_and_gradient(objective, student, top, labels)
    bound = error_bound(objective, buckets(student, top))
    exact = generalized_jsd(student, teacher, beta)
    for n in range(N):
        ids = top.ids[n].tolist()
        expected = jsd(coarse(teacher[n], ids), coarse(student[n], ids), beta)
        assert values[n].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
        whole = jsd(teacher[n].softmax(-1).tolist(), student[n].softmax(-1).tolist(), beta)
        assert exact[n].item() == pytest.approx(whole, rel=1e-9, abs=1e-12)
        assert -1e-6 <= whole - values[n].item() <= bound[n].item() + 1e-6


@pytest.mark.parametrize("beta", BETAS[1:])
def test_the_bound_is_reached_by_tails_that_do_not_overlap(beta: float) -> None:
    student, teacher = torch.full((1, 6), -40.0).double(), torch.full((1, 6), -40.0).double()
    teacher[0, :4] = torch.tensor([0.5, 0.25, 0.15, 0.1]).double().log()
    student[0, [0, 1, 4, 5]] = torch.tensor([0.3, 0.3, 0.1, 0.3]).double().log()
    top, objective = top_of(teacher, 2), Divergence(beta)
    value, _ = value_and_gradient(objective, student, top, torch.zeros(1, dtype=torch.int64))
    gap = generalized_jsd(student, teacher, beta) - value
    torch.testing.assert_close(gap, error_bound(objective, buckets(student, top)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "objective", [*map(Divergence, BETAS), CrossEntropy(), WeightedSum(((0.3, CrossEntropy()), (0.7, Divergence(0.5))))]
)
def test_gradients_are_autograds_of_the_buckets(objective: Divergence) -> None:
    student = logits(2, 2.0).requires_grad_()
    top, labels = top_of(logits(1, 2.0), K), torch.arange(N) % V
    inside = torch.zeros(N, V, dtype=torch.bool).scatter(-1, top.ids, True)
    own = torch.cat([student.gather(-1, top.ids), student.masked_fill(inside, -torch.inf).logsumexp(-1, True)], -1)
    theirs = torch.cat([top.logprobs, top.tail[:, None]], -1).double()

    def value(part) -> Tensor:
        if isinstance(part, WeightedSum):
            return torch.stack([weight * value(one) for weight, one in part.parts]).sum(0)
        return part(student, None, labels) if isinstance(part, CrossEntropy) else part(own, theirs, labels)

    expected = value(objective)
    (slope,) = torch.autograd.grad(expected.sum(), student)
    values, gradient = value_and_gradient(objective, student.detach(), top, labels)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-9)


def heads(seed: int) -> tuple[Tensor, Head]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=generator), Head(torch.randn(V, D, generator=generator) / 3)


@pytest.mark.parametrize("chunk", [None, 7])
def test_the_fused_loss_has_the_buckets_values_and_gradients(chunk: int | None) -> None:
    hidden, head = heads(1)
    teacher_hidden, teacher_head = heads(2)
    hidden.requires_grad_()
    head.weight.requires_grad_()
    weights, labels, objective = torch.rand(N), torch.arange(N) % V, Divergence(0.5)
    teacher_logits, student = teacher_hidden @ teacher_head.weight.t(), hidden @ head.weight.t()
    top = top_of(teacher_logits, K)
    loss, stats = linear_objective(objective, hidden, head, top, labels, weights, chunk_tokens=chunk)
    loss.backward()
    values, gradient = value_and_gradient(objective, student.detach(), top, labels)
    torch.testing.assert_close(loss.detach(), (weights * values).sum())
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, (weights[:, None] * gradient) @ head.weight.detach(), rtol=1e-4, atol=1e-6)
    _, exact = linear_objective(objective, hidden, head, TeacherSignal(teacher_hidden, teacher_head), labels, weights)
    assert stats.error_bound is not None
    assert exact.error_bound is None
    gap = exact.loss - stats.loss
    assert bool(((gap > -1e-6) & (gap <= stats.error_bound + 1e-6)).all())
    for name in ("cross_entropy", "student_entropy", "agreement"):
        torch.testing.assert_close(getattr(stats, name), getattr(exact, name), rtol=1e-4, atol=1e-5)
    assert stats.teacher_entropy is None
    for name in ("forward_kl", "reverse_kl"):
        assert bool((getattr(stats, name) <= getattr(exact, name) + 1e-5).all())


def test_tokens_that_are_absent_or_unknown_to_the_student_count_to_nobody() -> None:
    teacher, student = logits(1, 2.0), logits(2, 2.0)
    few = top_of(teacher, 3)
    ids = torch.cat([few.ids, torch.full((N, 1), V + 5), torch.full((N, 1), -1)], -1)
    padded = TopLogprobs(
        ids, torch.cat([few.logprobs, torch.full((N, 1), -3.0), torch.full((N, 1), -math.inf)], -1), few.tail
    )
    labels = torch.zeros(N, dtype=torch.int64)
    for beta in BETAS:
        for got, expected in zip(
            *(value_and_gradient(Divergence(beta), student, top, labels) for top in (padded, few)), strict=True
        ):
            torch.testing.assert_close(got, expected)
        bounds = [error_bound(Divergence(beta), buckets(student, top)) for top in (padded, few)]
        torch.testing.assert_close(bounds[0], bounds[1])


def test_a_tail_is_what_the_likeliest_tokens_leave() -> None:
    whole = top_of(logits(1, 2.0), K)
    again = top_of_logprobs(whole.ids, whole.logprobs)
    torch.testing.assert_close(again.tail.exp(), whole.tail.exp(), rtol=1e-4, atol=1e-6)
    assert torch.isfinite(top_of_logprobs(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)).tail).all()
    sure = torch.full((1, 5), -200.0)
    sure[0, 2] = 200.0
    values, gradient = value_and_gradient(Divergence(0.5), sure, top_of(sure, 2), torch.zeros(1, dtype=torch.int64))
    assert float(values) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("objective", [Divergence(1.0), Divergence(0.5, 2.0), WeightedSum(((1.0, Divergence(1.0)),))])
def test_what_has_no_bound_is_refused(objective: Divergence) -> None:
    with pytest.raises(TutelageError, match="likeliest tokens bound"):
        value_and_gradient(objective, logits(2, 1.0), top_of(logits(1, 1.0), 3), torch.zeros(N, dtype=torch.int64))
