"""The tensors that `loss.py` gives to every implementation, and the exact result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PAIRS = {"random": 2.0, "peaked": 8.0, "near": 2.0}  # the logits' standard deviation


@dataclass(frozen=True)
class Problem:
    hidden: Any  # [N, D]
    weight: Any  # [V, D]
    teacher_hidden: Any  # [N, D_teacher]
    teacher_weight: Any  # [V, D_teacher]
    labels: Any  # [N]


def make_problem(shape: tuple[int, ...], pair: str, device: str) -> Problem:
    import torch

    tokens, size, teacher_size, width = shape
    generator = torch.Generator(device).manual_seed(0)

    def rand(rows: int, columns: int, deviation: float) -> Any:
        out = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.bfloat16)
        return out.mul_(deviation)

    hidden, weight = rand(tokens, size, 1.0), rand(width, size, PAIRS[pair] / math.sqrt(size))
    if pair == "near":  # the student's columns, and further ones that add the noise
        extra = teacher_size - size
        teacher_hidden = torch.cat([hidden, rand(tokens, extra, 1.0)], 1)
        teacher_weight = torch.cat([weight, rand(width, extra, 0.1 / math.sqrt(extra))], 1)
    else:
        teacher_hidden = rand(tokens, teacher_size, 1.0)
        teacher_weight = rand(width, teacher_size, PAIRS[pair] / math.sqrt(teacher_size))
    labels = torch.randint(0, width, (tokens,), generator=generator, device=device)
    return Problem(hidden.requires_grad_(), weight.requires_grad_(), teacher_hidden, teacher_weight, labels)


def solve(loss: Callable[[Problem], Any], problem: Problem) -> tuple[Any, Any, Any]:
    """The loss, and its gradients by the hidden states and by the head."""
    import torch

    value = loss(problem)
    hidden, weight = torch.autograd.grad(value, [problem.hidden, problem.weight])
    return value.detach(), hidden, weight


def exact(problem: Problem, beta: float | None, rows: int = 32) -> tuple[Any, Any, Any]:
    """Loss and gradients in float64 from the definitions, by autograd, `rows` tokens at a time."""
    import torch

    tokens, weight = len(problem.labels), problem.weight.detach().double().requires_grad_()
    teacher_weight = problem.teacher_weight.double()
    total, grad_hidden, grad_weight = 0.0, [], torch.zeros_like(weight)
    for start in range(0, tokens, rows):
        part = slice(start, start + rows)
        hidden = problem.hidden[part].detach().double().requires_grad_()
        log_s = torch.log_softmax(hidden @ weight.T, -1)
        if beta is None:
            values = -log_s.gather(1, problem.labels[part, None])
        else:
            log_t = torch.log_softmax(problem.teacher_hidden[part].double() @ teacher_weight.T, -1)
            values = log_t.exp() * (log_t - log_s)
            if beta:
                log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log(1.0 - beta))
                values = beta * log_t.exp() * (log_t - log_m) + (1.0 - beta) * log_s.exp() * (log_s - log_m)
        loss = values.sum() / tokens
        for total_grad, grad in zip((None, grad_weight), torch.autograd.grad(loss, [hidden, weight]), strict=True):
            if total_grad is None:
                grad_hidden.append(grad)
            else:
                total_grad += grad
        total += loss.detach()
    return total, torch.cat(grad_hidden), grad_weight.detach()


def relative(found: Any, true: Any) -> float:
    return float((found.double() - true).norm() / true.norm())
