"""The last linear map and the objective, chunk by chunk, in plain torch.

A batch's logits are its largest tensor by far (16k tokens × 128k entries = 8 GiB in float32), so they exist only for a
chunk of tokens at a time. Their gradient is worked out in the forward pass and folded into the gradients of the hidden
states and of the head at once; the backward pass only scales those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutelage import divergence
from tutelage.objective import Objective
from tutelage.types import Head, TeacherSignal, TokenStats

# Elements of one chunk's logits; about fifteen tensors of this size are alive at the peak. On a CPU a chunk should stay
# near the caches; a GPU wants long matrix products (50M elements: 3 GiB at the peak).
_CPU_CHUNK = 64 * 49_152
_GPU_CHUNK = 1_024 * 49_152


def linear_objective(
    objective: Objective,
    hidden: Tensor,
    head: Head,
    teacher: TeacherSignal | None,
    labels: Tensor,
    weights: Tensor,
    statistics: bool = True,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, TokenStats]:
    """Σ weights[n] · objective(logits[n]) and the per-token values.

    hidden [N, D]; head.weight [V, D]; teacher.hidden [N, D_teacher], teacher.head.weight [V_teacher, D_teacher];
    labels [N]; weights [N]. Heads of different width are compared on their common part: the first min(V, V_teacher)
    rows, which both have (a padded head has more rows than its tokenizer has tokens). Products are taken in the type of
    the hidden states with float32 results, everything after in float32 (float64 stays float64).

    Returns the loss (a scalar with gradients to hidden, head.weight and head.bias) and detached TokenStats [N].
    """
    if teacher is not None:
        width = min(head.weight.shape[0], teacher.head.weight.shape[0])
        head, teacher = _narrow(head, width), TeacherSignal(teacher.hidden, _narrow(teacher.head, width))
    if chunk_tokens is None:
        elements = _CPU_CHUNK if hidden.device.type == "cpu" else _GPU_CHUNK
        chunk_tokens = max(16, elements // head.weight.shape[0])
    plan = _Plan(objective, head.scale, head.softcap, teacher, labels, weights, statistics, chunk_tokens)
    loss, *stats = _LinearObjective.apply(hidden, head.weight, head.bias, plan)  # type: ignore[misc]
    return loss, TokenStats(*stats)


def label_logprobs(hidden: Tensor, head: Head, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[label] per token, float32 [N]; no gradient."""
    chunk = max(16, (_CPU_CHUNK if hidden.device.type == "cpu" else _GPU_CHUNK) // head.weight.shape[0])
    out = []
    with torch.no_grad():
        for start in range(0, hidden.shape[0], chunk):
            logits = chunk_logits(hidden[start : start + chunk], head) / temperature
            rows = labels[start : start + chunk, None]
            out.append(logits.gather(-1, rows).squeeze(-1) - logits.logsumexp(-1))
    return torch.cat(out) if out else hidden.new_zeros(0, dtype=torch.float32)


def chunk_logits(hidden: Tensor, head: Head) -> Tensor:
    """Logits [n, V] in float32 (float64 inputs stay float64)."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = _product(hidden, head.weight.t())
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits = logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


class _Plan:
    """What the autograd function needs besides tensors with gradients."""

    def __init__(
        self,
        objective: Objective,
        scale: float,
        softcap: float | None,
        teacher: TeacherSignal | None,
        labels: Tensor,
        weights: Tensor,
        statistics: bool,
        chunk_tokens: int,
    ) -> None:
        self.objective, self.scale, self.softcap = objective, scale, softcap
        self.teacher, self.labels, self.weights = teacher, labels, weights
        self.statistics, self.chunk_tokens = statistics, chunk_tokens


class _LinearObjective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, bias, plan)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_loss: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        scaled = [None if g is None else g.mul_(grad_loss.to(g.dtype)) for g in (hidden, weight, bias)]
        return (*scaled, None)


def _forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan) -> tuple[Tensor | None, ...]:
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    compute = weight.to(hidden.dtype)  # once, not once a chunk
    head = Head(compute, None if bias is None else bias.to(wide), plan.scale, plan.softcap)
    wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    grad_hidden = torch.empty_like(hidden) if wants_hidden else None
    grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
    grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if bias is not None and wants_bias else None
    total = hidden.new_zeros((), dtype=wide)
    stats: list[list[Tensor | None]] = []
    for start in range(0, hidden.shape[0], plan.chunk_tokens):
        part = slice(start, start + plan.chunk_tokens)
        values, slope, row = _chunk(plan, hidden[part], head, part)
        token_weights = plan.weights[part].to(wide)
        total += torch.dot(values, token_weights)
        stats.append(row)
        if not (wants_hidden or wants_weight or wants_bias):
            continue
        slope *= (token_weights * plan.scale)[:, None]
        if grad_bias is not None:
            grad_bias += slope.sum(0)
        slope = slope.to(hidden.dtype)
        if grad_hidden is not None:
            torch.mm(slope, compute, out=grad_hidden[part])
        if grad_weight is not None:
            _add_product(grad_weight, slope.t(), hidden[part])
    ctx.save_for_backward(
        grad_hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )
    columns = [_cat(column) for column in zip(*stats, strict=True)] if stats else [hidden.new_zeros(0)] * 7
    ctx.mark_non_differentiable(*[c for c in columns if c is not None])
    return (total, *columns)


def _chunk(plan: _Plan, hidden: Tensor, head: Head, part: slice) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Values [n], slope [n, V] with respect to the product hidden @ weight.T (times 1/scale), and the statistics."""
    labels = plan.labels[part]
    student = chunk_logits(hidden, head)
    teacher = None if plan.teacher is None else chunk_logits(plan.teacher.hidden[part], plan.teacher.head)
    values, slope = plan.objective.value_and_gradient(student, teacher, labels)
    row: list[Tensor | None] = [values.float(), *_statistics(student, teacher, labels, plan.statistics)]
    if head.softcap is not None:  # d softcap(z) / d z = 1 − (softcap(z) / cap)²
        slope *= 1.0 - (student / head.softcap) ** 2
    return values, slope, row


def _statistics(student: Tensor, teacher: Tensor | None, labels: Tensor, wanted: bool) -> list[Tensor | None]:
    """Cross-entropy, KL(T‖S), KL(S‖T), both entropies and top-1 agreement, as TokenStats orders them."""
    if not wanted:
        return [None] * 6
    norm = student.logsumexp(-1)
    cross_entropy = norm - student.gather(-1, labels[:, None]).squeeze(-1)
    probabilities = (student - norm[:, None]).exp_()
    student_entropy = norm - torch.linalg.vecdot(probabilities, student)
    if teacher is None:
        return [cross_entropy.float(), None, None, student_entropy.float(), None, None]
    p, q, delta = divergence._probabilities(student, teacher, 1.0)
    teacher_norm = teacher.logsumexp(-1)
    rows = (
        cross_entropy,
        -torch.linalg.vecdot(q, delta),
        torch.linalg.vecdot(p, delta),
        student_entropy,
        teacher_norm - torch.linalg.vecdot(q, teacher),
        student.argmax(-1) == teacher.argmax(-1),
    )
    return [row.float() for row in rows]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with a result of at least float32, whatever the inputs' type."""
    if a.dtype in (torch.float32, torch.float64):
        return torch.mm(a, b.to(a.dtype))
    if a.device.type == "cuda":
        return torch.mm(a, b.to(a.dtype), out_dtype=torch.float32)  # rounding logits to bf16 costs 5 % of a small KL
    return torch.mm(a.float(), b.float())


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a @ b, accumulated in out's type."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        out += _product(a, b)


def _narrow(head: Head, width: int) -> Head:
    if head.weight.shape[0] == width:
        return head
    return Head(head.weight[:width], None if head.bias is None else head.bias[:width], head.scale, head.softcap)


def _cat(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])
