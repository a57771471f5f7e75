"""Values, statistics and gradient of a chunk of tokens, whose logits are the only ones in memory.

There are two implementations: plain torch (`TorchChunks`, the reference, for CPUs and for any objective) and a Triton
kernel (`TritonChunks`, `triton_launch.py`). `fused_linear.py` evaluates chunk after chunk and takes the gradient once
per group of chunks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tutelage.common.types import Head, Signal, TeacherSignal, TopLogprobs
from tutelage.loss import divergence, top_k
from tutelage.loss.divergence import Distributions
from tutelage.loss.matmul import operand, product, product_buffer
from tutelage.loss.objective import Objective

# Elements of one chunk's logits on the torch path; about fifteen tensors of this size are alive at the peak. On a CPU a
# chunk should fit the caches; on a GPU long matrix products are faster (50M elements: 3 GiB at the peak).
_CPU_CHUNK = 64 * 49_152
_GPU_CHUNK = 1_024 * 49_152
# On a CPU, elements per piece between two matrix products: a dozen tensors of 0.8 MB stay in the caches.
_CPU_PIECE = 4 * 49_152
# Bytes that the Triton path uses for logits and their gradient. With a float32 accumulator for a half-precision head
# (1 GiB for 128k × 2,048) the total stays below 2 GiB.
_BUFFERS = int(1.3 * 2**30)


class LossArguments:
    """The arguments of the autograd function that have no gradient."""

    def __init__(
        self,
        objective: Objective,
        head: Head,
        teacher: Signal | None,
        labels: Tensor,
        weights: Tensor,
        statistics: bool,
        chunk_tokens: int | None,
        group_chunks: int | None,
        chunks: type[TorchChunks] | type[TritonChunks],
    ) -> None:
        self.objective, self.scale, self.softcap = objective, head.scale, head.softcap
        self.labels, self.weights, self.statistics = labels, weights, statistics
        self.chunk_tokens, self.group_chunks, self.chunks = chunk_tokens, group_chunks, chunks
        self.gradients = torch.is_grad_enabled()  # `needs_input_grad` is true under `no_grad` too
        self.top = teacher if isinstance(teacher, TopLogprobs) else None
        self.teacher = teacher if isinstance(teacher, TeacherSignal) else None
        if isinstance(teacher, TeacherSignal):  # converted once, not once per chunk
            weight, bias = teacher.head.weight.to(teacher.hidden.dtype), teacher.head.bias
            converted = replace(teacher.head, weight=operand(weight), bias=None if bias is None else operand(bias))
            self.teacher = TeacherSignal(teacher.hidden, converted)


class TorchChunks:
    """A chunk's values, statistics and gradient in plain torch.

    `chunk_tokens`: tokens per call of `evaluate`; `group_tokens`: tokens after which `product_gradient` is read.
    `gradient`: whether it will be read; this path computes it in any case.
    """

    def __init__(self, arguments: LossArguments, hidden: Tensor, head: Head, gradient: bool) -> None:
        self.arguments, self.hidden, self.head = arguments, hidden, replace(head, weight=operand(head.weight))
        width = head.weight.shape[0]
        self.chunk_tokens = self.group_tokens = arguments.chunk_tokens or torch_chunk_tokens(hidden.device, width)
        self.piece_tokens = max(1, _CPU_PIECE // width) if hidden.device.type == "cpu" else self.chunk_tokens
        # Allocated once: on a CPU, fresh memory costs more than most of the arithmetic on it.
        sources = [hidden] if arguments.teacher is None else [hidden, arguments.teacher.hidden]
        self.products = [product_buffer(source, min(self.chunk_tokens, len(hidden)), width) for source in sources]

    def evaluate(self, part: slice) -> tuple[Tensor, list[Tensor | None]]:
        """Values [n] of these tokens and their six statistics [n], None for those that were not asked for; from the
        teacher's likeliest tokens alone, also the bound of the values' error."""
        arguments, count = self.arguments, part.stop - part.start
        student = chunk_logits(self.hidden[part], self.head, self.products[0][:count])
        teacher = None
        if arguments.teacher is not None:
            teacher = chunk_logits(arguments.teacher.hidden[part], arguments.teacher.head, self.products[1][:count])
        labels, weights = arguments.labels[part], arguments.weights[part]
        top = None
        if arguments.top is not None:
            top = TopLogprobs(*(column[part] for column in vars(arguments.top).values()))
        pieces = []
        for i in range(0, count, self.piece_tokens):
            piece = slice(i, i + self.piece_tokens)
            if top is not None:
                own = TopLogprobs(*(column[piece] for column in vars(top).values()))
                pieces.append(self._piece_of_top(student[piece], own, labels[piece], weights[piece]))
                continue
            pieces.append(
                self._piece(student[piece], None if teacher is None else teacher[piece], labels[piece], weights[piece])
            )
        values, *statistics = (join(column) for column in zip(*pieces, strict=True))
        assert values is not None
        return values, statistics

    def _piece(
        self, student: Tensor, teacher: Tensor | None, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Values and statistics; overwrites `student` with the weighted gradient with respect to hidden @ weight.T."""
        distributions = divergence.distributions(student, teacher) if self.arguments.statistics else None
        statistics: list[Tensor | None] = [None] * 6
        if distributions is not None:
            statistics = _token_statistics(student, teacher, labels, distributions)
        values, gradient = self.arguments.objective.value_and_gradient(student, teacher, labels, distributions)
        self._keep(student, gradient, weights)
        return values, *statistics

    def _piece_of_top(
        self, student: Tensor, top: TopLogprobs, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The same, where only the teacher's likeliest tokens are known, and the bound of the values' error."""
        objective = self.arguments.objective
        statistics: list[Tensor | None] = [None] * 7
        if self.arguments.statistics:
            bound = top_k.error_bound(objective, top_k.buckets(student, top))
            statistics = [*top_k.statistics(student, top, labels), bound.float()]
        values, gradient = top_k.value_and_gradient(objective, student, top, labels)
        self._keep(student, gradient, weights)
        return values, *statistics

    def _keep(self, student: Tensor, gradient: Tensor, weights: Tensor) -> None:
        """Overwrite the logits `student` with the weighted gradient with respect to hidden @ weight.T."""
        if self.head.softcap is not None:  # d softcap(z) / d z = 1 − (softcap(z) / cap)²
            gradient *= 1.0 - (student / self.head.softcap) ** 2
        torch.mul(gradient, (weights.to(gradient.dtype) * self.head.scale)[:, None], out=student)

    def product_gradient(self, tokens: int) -> Tensor:
        """weights[i] · d value[i] / d (hidden[i] @ weight.T) of the last group, [tokens, V]."""
        return self.products[0][:tokens]


class TritonChunks:
    """The same interface as `TorchChunks`, computed by the Triton kernel in buffers that are allocated once."""

    def __init__(self, arguments: LossArguments, hidden: Tensor, head: Head, gradient: bool) -> None:
        from tutelage.loss import triton_launch

        objective = triton_launch.kernel_objective(arguments.objective)
        assert objective is not None  # `_use_triton` has checked it
        self.evaluate_chunk, self.objective = triton_launch.evaluate_chunk, objective
        self.arguments, self.hidden, self.head = arguments, hidden, head
        tokens, width = hidden.shape[0], head.weight.shape[0]
        models = 1 if arguments.teacher is None else 2
        chunk, chunks = buffer_sizes(_BUFFERS, width, models, hidden.element_size() if gradient else 0)
        self.chunk_tokens = arguments.chunk_tokens or chunk
        self.group_tokens = self.chunk_tokens * (arguments.group_chunks or chunks)
        self.student = product_buffer(hidden, min(tokens, self.chunk_tokens), width)
        self.teacher = torch.empty_like(self.student) if models == 2 else None
        self.gradient = hidden.new_empty((min(tokens, self.group_tokens), width)) if gradient else None

    def evaluate(self, part: slice) -> tuple[Tensor, list[Tensor | None]]:
        """Values [n] of these tokens and their six statistics [n]; None for those that were not asked for."""
        arguments, count, start = self.arguments, part.stop - part.start, part.start % self.group_tokens
        student = product(self.hidden[part], self.head.weight.t(), out=self.student[:count])
        teacher = teacher_head = None
        if arguments.teacher is not None and self.teacher is not None:
            teacher_head = arguments.teacher.head
            teacher = product(arguments.teacher.hidden[part], teacher_head.weight.t(), out=self.teacher[:count])
        gradient = None if self.gradient is None else self.gradient[start : start + count]
        labels, weights = arguments.labels[part], arguments.weights[part].float()
        return self.evaluate_chunk(
            self.objective, student, self.head, teacher, teacher_head, labels, weights, gradient, arguments.statistics
        )

    def product_gradient(self, tokens: int) -> Tensor:
        """weights[i] · d value[i] / d (hidden[i] @ weight.T) of the last group, [tokens, V]."""
        assert self.gradient is not None
        return self.gradient[:tokens]


def buffer_sizes(budget: int, width: int, models: int, gradient_bytes: int) -> tuple[int, int]:
    """Tokens per chunk and chunks per group, such that float32 logits and their gradient fit into `budget` bytes.

    models: 2 with a teacher, else 1; gradient_bytes: per element of the gradient, 0 without one. Long groups save
    passes over the head's gradient, long chunks passes over both heads. Three chunks per group, of a multiple of 256
    tokens, were the fastest measured for 128k × 2,048; others cost up to 10 % because the last wave of a matrix product
    is not full.
    """
    chunks = 3 if gradient_bytes else 1
    tokens = budget // (width * (4 * models + gradient_bytes * chunks))
    return min(tokens // 256 * 256 or max(1, tokens), 4_096 // chunks // 256 * 256), chunks


def _token_statistics(
    student: Tensor, teacher: Tensor | None, labels: Tensor, distributions: Distributions
) -> list[Tensor | None]:
    """Cross-entropy, KL(T‖S), KL(S‖T), both entropies and top-1 agreement, in the order of TokenStats."""
    norm = distributions.student_norm.squeeze(-1)
    cross_entropy = norm - student.gather(-1, labels[:, None]).squeeze(-1)
    student_entropy = norm - torch.linalg.vecdot(distributions.student, student)
    if (
        teacher is None
        or distributions.teacher is None
        or distributions.delta is None
        or distributions.teacher_norm is None
    ):
        return [cross_entropy.float(), None, None, student_entropy.float(), None, None]
    # 0 except for rounding errors, which it removes from both divergences.
    gap = distributions.teacher.sum(-1) - distributions.student.sum(-1)
    statistics = (
        cross_entropy,
        -torch.linalg.vecdot(distributions.teacher, distributions.delta) - gap,
        torch.linalg.vecdot(distributions.student, distributions.delta) + gap,
        student_entropy,
        distributions.teacher_norm.squeeze(-1) - torch.linalg.vecdot(distributions.teacher, teacher),
        student.argmax(-1) == teacher.argmax(-1),
    )
    return [statistic.float() for statistic in statistics]


def torch_chunk_tokens(device: torch.device, width: int) -> int:
    """Tokens per chunk on the torch path, for a vocabulary of `width` entries."""
    return max(16, (_CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK) // width)


def chunk_logits(hidden: Tensor, head: Head, out: Tensor | None = None) -> Tensor:
    """Logits [n, V] of hidden states [n, D], in float32 (float64 stays float64); written to `out` if given."""
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
    """The pieces of one column of values joined; None stays None."""
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])
