"""What is done to a chunk's logits, row by row of the vocabulary: values, statistics, gradient.

Written twice: in plain torch (`TorchRows`, the reference, for CPUs and for any objective) and as a Triton kernel
(`TritonRows`, `triton_launch.py`). The driver in `fused_linear.py` asks for chunk after chunk, and for the gradient of
each group.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tutelage.common.types import Head, TeacherSignal
from tutelage.loss import divergence
from tutelage.loss.divergence import Distributions
from tutelage.loss.matmul import factor, product, product_buffer
from tutelage.loss.objective import Objective

# Elements of one chunk's logits on the torch path; about fifteen tensors of this size are alive at the peak. On a CPU a
# chunk should stay near the caches; a GPU wants long matrix products (50M elements: 3 GiB at the peak).
_CPU_CHUNK = 64 * 49_152
_GPU_CHUNK = 1_024 * 49_152
# Elements that are worked on at a time between a CPU's matrix products: a dozen tensors of 0.8 MB stay in its caches.
_CPU_PIECE = 4 * 49_152
# Bytes that the Triton path takes for logits and their gradient: with a float32 accumulator for a half-precision head
# (1 GiB for 128k × 2,048) still below 2 GiB.
_BUFFERS = int(1.3 * 2**30)


class Plan:
    """What the autograd function needs besides tensors with gradients."""

    def __init__(
        self,
        objective: Objective,
        head: Head,
        teacher: TeacherSignal | None,
        labels: Tensor,
        weights: Tensor,
        statistics: bool,
        chunk_tokens: int | None,
        group_chunks: int | None,
        rows: type[TorchRows] | type[TritonRows],
    ) -> None:
        self.objective, self.scale, self.softcap = objective, head.scale, head.softcap
        self.labels, self.weights, self.statistics = labels, weights, statistics
        self.chunk_tokens, self.group_chunks, self.rows = chunk_tokens, group_chunks, rows
        self.gradients = torch.is_grad_enabled()  # `needs_input_grad` does not say so
        self.teacher = teacher
        if teacher is not None:  # converted once, not once a chunk
            same, bias = teacher.head.weight.to(teacher.hidden.dtype), teacher.head.bias
            converted = replace(teacher.head, weight=factor(same), bias=None if bias is None else factor(bias))
            self.teacher = TeacherSignal(teacher.hidden, converted)


class TorchRows:
    """A chunk's values, statistics and gradient in plain torch."""

    def __init__(self, plan: Plan, hidden: Tensor, head: Head, gradient: bool) -> None:
        self.plan, self.hidden, self.head = plan, hidden, replace(head, weight=factor(head.weight))
        width = head.weight.shape[0]
        self.chunk = self.group = plan.chunk_tokens or torch_chunk(hidden.device, width)
        self.step = max(1, _CPU_PIECE // width) if hidden.device.type == "cpu" else self.chunk
        # Made once: on a CPU fresh memory costs more than most of what is done to it.
        sources = [hidden] if plan.teacher is None else [hidden, plan.teacher.hidden]
        self.products = [product_buffer(source, min(self.chunk, len(hidden)), width) for source in sources]

    def measure(self, part: slice) -> tuple[Tensor, list[Tensor | None]]:
        """Values [n] and the six statistics of these tokens."""
        plan, count = self.plan, part.stop - part.start
        student = chunk_logits(self.hidden[part], self.head, self.products[0][:count])
        teacher = None
        if plan.teacher is not None:
            teacher = chunk_logits(plan.teacher.hidden[part], plan.teacher.head, self.products[1][:count])
        labels, weights = plan.labels[part], plan.weights[part]
        pieces = []
        for i in range(0, count, self.step):
            piece = slice(i, i + self.step)
            pieces.append(
                self._piece(student[piece], None if teacher is None else teacher[piece], labels[piece], weights[piece])
            )
        values, *row = (join(column) for column in zip(*pieces, strict=True))
        assert values is not None
        return values, row

    def _piece(
        self, student: Tensor, teacher: Tensor | None, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Value and statistics; the student's logits are overwritten with the slope."""
        known = divergence.distributions(student, teacher) if self.plan.statistics else None
        row: list[Tensor | None] = [None] * 6
        if known is not None:
            row = _statistics(student, teacher, labels, known)
        values, slope = self.plan.objective.value_and_gradient(student, teacher, labels, known)
        if self.head.softcap is not None:  # d softcap(z) / d z = 1 − (softcap(z) / cap)²
            slope *= 1.0 - (student / self.head.softcap) ** 2
        torch.mul(slope, (weights.to(slope.dtype) * self.head.scale)[:, None], out=student)
        return values, *row

    def slope(self, tokens: int) -> Tensor:
        """weights[i] · d value[i] / d (hidden[i] @ weight.T), [tokens, V], of the last group."""
        return self.products[0][:tokens]


class TritonRows:
    """The same by the kernel of `triton_launch.py`, in buffers that are made once."""

    def __init__(self, plan: Plan, hidden: Tensor, head: Head, gradient: bool) -> None:
        from tutelage.loss import triton_launch as fused

        objective = fused.row_objective(plan.objective)
        assert objective is not None  # `_takes_triton` has seen to it
        self.rows, self.objective, self.plan, self.hidden, self.head = fused.rows, objective, plan, hidden, head
        tokens, width = hidden.shape[0], head.weight.shape[0]
        models = 1 if plan.teacher is None else 2
        chunk, chunks = buffer_sizes(_BUFFERS, width, models, hidden.element_size() if gradient else 0)
        self.chunk = plan.chunk_tokens or chunk
        self.group = self.chunk * (plan.group_chunks or chunks)
        self.student = product_buffer(hidden, min(tokens, self.chunk), width)
        self.teacher = torch.empty_like(self.student) if models == 2 else None
        self.slopes = hidden.new_empty((min(tokens, self.group), width)) if gradient else None

    def measure(self, part: slice) -> tuple[Tensor, list[Tensor | None]]:
        plan, count, place = self.plan, part.stop - part.start, part.start % self.group
        student = product(self.hidden[part], self.head.weight.t(), out=self.student[:count])
        teacher = teacher_head = None
        if plan.teacher is not None and self.teacher is not None:
            teacher_head = plan.teacher.head
            teacher = product(plan.teacher.hidden[part], teacher_head.weight.t(), out=self.teacher[:count])
        slopes = None if self.slopes is None else self.slopes[place : place + count]
        labels, weights = plan.labels[part], plan.weights[part].float()
        return self.rows(
            self.objective, student, self.head, teacher, teacher_head, labels, weights, slopes, plan.statistics
        )

    def slope(self, tokens: int) -> Tensor:
        assert self.slopes is not None
        return self.slopes[:tokens]


def buffer_sizes(budget: int, width: int, models: int, gradient_bytes: int) -> tuple[int, int]:
    """Tokens a chunk and chunks a group whose float32 logits and gradient fit in `budget` bytes.

    Long groups save passes over the head's gradient, long chunks passes over both heads. Three chunks a group of a
    multiple of 256 tokens were the fastest measured for 128k × 2,048 (others cost up to a tenth: matrix products do not
    fill their last wave).
    """
    chunks = 3 if gradient_bytes else 1
    tokens = budget // (width * (4 * models + gradient_bytes * chunks))
    return min(tokens // 256 * 256 or max(1, tokens), 4_096 // chunks // 256 * 256), chunks


def _statistics(student: Tensor, teacher: Tensor | None, labels: Tensor, known: Distributions) -> list[Tensor | None]:
    """Cross-entropy, KL(T‖S), KL(S‖T), both entropies and top-1 agreement, as TokenStats orders them."""
    norm = known.student_norm.squeeze(-1)
    cross_entropy = norm - student.gather(-1, labels[:, None]).squeeze(-1)
    student_entropy = norm - torch.linalg.vecdot(known.student, student)
    if teacher is None or known.teacher is None or known.delta is None or known.teacher_norm is None:
        return [cross_entropy.float(), None, None, student_entropy.float(), None, None]
    gap = known.teacher.sum(-1) - known.student.sum(-1)  # 0 but for rounding, which it takes out of both divergences
    rows = (
        cross_entropy,
        -torch.linalg.vecdot(known.teacher, known.delta) - gap,
        torch.linalg.vecdot(known.student, known.delta) + gap,
        student_entropy,
        known.teacher_norm.squeeze(-1) - torch.linalg.vecdot(known.teacher, teacher),
        student.argmax(-1) == teacher.argmax(-1),
    )
    return [row.float() for row in rows]


def torch_chunk(device: torch.device, width: int) -> int:
    """Tokens a chunk on the torch path."""
    return max(16, (_CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK) // width)


def chunk_logits(hidden: Tensor, head: Head, out: Tensor | None = None) -> Tensor:
    """Logits [n, V] in float32 (float64 inputs stay float64), in `out` if given."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = product(hidden, head.weight.t(), out)
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits = logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def join(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """One column of values from those of its pieces; None stays None."""
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])
