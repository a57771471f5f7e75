"""The last linear map and the objective, chunk by chunk of tokens.

A batch's logits are its largest tensor by far (16k tokens × 128k entries = 8 GiB in float32), so they exist only for a
chunk of tokens at a time. Their gradient is worked out in the forward pass and folded into the gradients of the hidden
states and of the head at once; the backward pass only scales those.

What is done to a chunk's logits is written twice, in `chunk.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head, TeacherSignal, TokenStats
from tutelage.loss.chunk import Plan, TorchRows, TritonRows, chunk_logits, join, torch_chunk
from tutelage.loss.matmul import add_product, product
from tutelage.loss.objective import Objective

Implementation = Literal["auto", "torch", "triton"]


def linear_objective(
    objective: Objective,
    hidden: Tensor,
    head: Head,
    teacher: TeacherSignal | None,
    labels: Tensor,
    weights: Tensor,
    statistics: bool = True,
    chunk_tokens: int | None = None,
    group_chunks: int | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, TokenStats]:
    """Σ weights[n] · objective(logits[n]) and the per-token values.

    hidden [N, D]; head.weight [V, D]; teacher.hidden [N, D_teacher], teacher.head.weight [V_teacher, D_teacher];
    labels [N]; weights [N]. Heads of different width are compared on their common part: the first min(V, V_teacher)
    rows, which both have (a padded head has more rows than its tokenizer has tokens). Products are taken in the type of
    the hidden states with float32 results, everything after in float32 (float64 stays float64).

    Logits are made for `chunk_tokens` at a time; on the Triton path `group_chunks` of them share the products that
    their gradients enter. "auto" takes Triton on CUDA for the objectives that the kernel knows, else torch.

    Returns the loss (a scalar with gradients to hidden, head.weight and head.bias) and detached TokenStats [N].
    Raises TutelageError where "triton" is asked for and cannot be had.
    """
    if teacher is not None:
        width = min(head.weight.shape[0], teacher.head.weight.shape[0])
        head, teacher = _narrow(head, width), TeacherSignal(teacher.hidden, _narrow(teacher.head, width))
        if not (statistics or objective.needs_teacher):
            teacher = None
    rows = TritonRows if _takes_triton(implementation, objective, hidden, teacher) else TorchRows
    plan = Plan(objective, head, teacher, labels, weights, statistics, chunk_tokens, group_chunks, rows)
    loss, *stats = _LinearObjective.apply(hidden, head.weight, head.bias, plan)  # type: ignore[misc]
    return loss, TokenStats(*stats)


def _takes_triton(
    implementation: Implementation, objective: Objective, hidden: Tensor, teacher: TeacherSignal | None
) -> bool:
    if implementation == "torch" or (implementation == "auto" and hidden.device.type != "cuda"):
        return False
    known = importlib.util.find_spec("triton") is not None and hidden.dtype != torch.float64
    if known:
        from tutelage.loss.triton_launch import row_objective

        known = row_objective(objective) is not None and (teacher is not None or not objective.needs_teacher)
    if implementation == "triton" and not known:
        raise TutelageError(f"no Triton kernel for {objective} on {hidden.dtype}: use implementation='torch'")
    return known


def label_logprobs(hidden: Tensor, head: Head, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[label] per token, float32 [N]; no gradient."""
    chunk = torch_chunk(hidden.device, head.weight.shape[0])
    out = []
    with torch.no_grad():
        for start in range(0, hidden.shape[0], chunk):
            logits = chunk_logits(hidden[start : start + chunk], head) / temperature
            rows = labels[start : start + chunk, None]
            out.append(logits.gather(-1, rows).squeeze(-1) - logits.logsumexp(-1))
    return torch.cat(out) if out else hidden.new_zeros(0, dtype=torch.float32)


class _LinearObjective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, bias, plan)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_loss: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (*map(_scaled, ctx.saved_tensors, ctx.kinds, [grad_loss] * 3), None)


def _scaled(gradient: Tensor | None, kind: torch.dtype, factor: Tensor) -> Tensor | None:
    """gradient · factor in the type of the parameter, in one pass."""
    if gradient is None:
        return None
    if gradient.dtype == kind:
        return gradient.mul_(factor.to(kind))
    return torch.mul(gradient, factor.to(gradient.dtype), out=torch.empty_like(gradient, dtype=kind))


def _forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> tuple[Tensor | None, ...]:
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    compute = weight.to(hidden.dtype)
    head = Head(compute, None if bias is None else bias.to(wide), plan.scale, plan.softcap)
    wants_hidden, wants_weight, wants_bias = (plan.gradients and wanted for wanted in ctx.needs_input_grad[:3])
    wanted = wants_hidden or wants_weight or wants_bias
    grad_hidden = torch.empty_like(hidden) if wants_hidden else None
    grad_weight: Tensor | None = None
    grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if bias is not None and wants_bias else None
    total = hidden.new_zeros((), dtype=wide)
    stats: list[list[Tensor | None]] = []
    rows = plan.rows(plan, hidden, head, wanted)
    for group in _slices(0, hidden.shape[0], rows.group):
        for part in _slices(group.start, group.stop, rows.chunk):
            values, row = rows.measure(part)
            total += torch.dot(values, plan.weights[part].to(wide))
            stats.append([values.float(), *row])
        if not wanted:
            continue
        slope = rows.slope(group.stop - group.start)
        if grad_bias is not None:
            grad_bias += slope.sum(0, dtype=wide)
        slope = slope.to(hidden.dtype)
        if grad_hidden is not None:
            torch.mm(slope, compute, out=grad_hidden[group])
        if grad_weight is not None:
            add_product(grad_weight, slope.t(), hidden[group])
        elif wants_weight:  # nothing to add to yet: no zeros to write and to read
            grad_weight = product(slope.t(), hidden[group])
        del slope
    if wants_weight and grad_weight is None:
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
    ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
    ctx.kinds = (hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype)
    columns = [join(column) for column in zip(*stats, strict=True)] if stats else [hidden.new_zeros(0)] * 7
    ctx.mark_non_differentiable(*[c for c in columns if c is not None])
    return (total, *columns)


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, stop)) for i in range(start, stop, size))


def _narrow(head: Head, width: int) -> Head:
    if head.weight.shape[0] == width:
        return head
    return Head(head.weight[:width], None if head.bias is None else head.bias[:width], head.scale, head.softcap)
