"""The last linear map and the objective in one autograd function, evaluated in chunks of tokens.

The logits are by far a batch's largest tensor (16k tokens × 128k entries = 8 GiB in float32), so only those of one
chunk exist at a time. The forward pass also computes their gradient and adds it into the gradients of the hidden states
and of the head; the backward pass only scales those. `chunk.py` has the two implementations of a chunk.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutelage.common.errors import TutelageError
from tutelage.common.types import Head, Signal, TeacherSignal, TokenStats, TopLogprobs
from tutelage.loss.chunk import LossArguments, TorchChunks, TritonChunks, chunk_logits, join, torch_chunk_tokens
from tutelage.loss.matmul import add_product, product
from tutelage.loss.objective import Objective
from tutelage.loss.triton_sums import scaled

Implementation = Literal["auto", "torch", "triton"]


def linear_objective(
    objective: Objective,
    hidden: Tensor,
    head: Head,
    teacher: Signal | None,
    labels: Tensor,
    weights: Tensor,
    statistics: bool = True,
    chunk_tokens: int | None = None,
    group_chunks: int | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, TokenStats]:
    """Σ weights[n] · objective(logits[n]) and the per-token values.

    hidden [N, D]; head.weight [V, D]; teacher.hidden [N, D_teacher], teacher.head.weight [V_teacher, D_teacher];
    labels [N]; weights [N]. If the heads differ in rows, only the first min(V, V_teacher) rows are used (a padded head
    has more rows than its tokenizer has tokens). From a teacher's TopLogprobs the loss is a lower bound (`top_k.py`),
    and `error_bound` is filled. Products have factors in the type of the hidden states and float32
    results; everything after them is float32. float64 stays float64.

    chunk_tokens: tokens per chunk; group_chunks: on the Triton path, chunks whose gradients go through one matrix
    product. None: the defaults of `chunk.py`. implementation: "auto" uses Triton on CUDA for the objectives that the
    kernel supports, else torch.

    Returns the loss (a scalar with gradients to hidden, head.weight and head.bias) and detached TokenStats [N].
    Raises TutelageError if "triton" is requested and unavailable for these inputs.
    """
    if isinstance(teacher, TeacherSignal):
        width = min(head.weight.shape[0], teacher.head.weight.shape[0])
        head, teacher = _first_rows(head, width), TeacherSignal(teacher.hidden, _first_rows(teacher.head, width))
    if not (statistics or objective.needs_teacher):
        teacher = None
    chunks = TritonChunks if _use_triton(implementation, objective, hidden, teacher) else TorchChunks
    arguments = LossArguments(objective, head, teacher, labels, weights, statistics, chunk_tokens, group_chunks, chunks)
    loss, *stats = _LinearObjective.apply(hidden, head.weight, head.bias, arguments)  # type: ignore[misc]
    return loss, TokenStats(*stats)


def _use_triton(implementation: Implementation, objective: Objective, hidden: Tensor, teacher: Signal | None) -> bool:
    """Whether the Triton path computes this loss; TutelageError if it is requested and cannot."""
    if implementation == "torch" or (implementation == "auto" and hidden.device.type != "cuda"):
        return False
    supported = importlib.util.find_spec("triton") is not None and hidden.dtype != torch.float64
    if supported:
        from tutelage.loss.triton_launch import kernel_objective

        supported = kernel_objective(objective) is not None and not isinstance(teacher, TopLogprobs)
        supported = supported and (teacher is not None or not objective.needs_teacher)
    if implementation == "triton" and not supported:
        raise TutelageError(f"no Triton kernel for {objective} on {hidden.dtype}: use implementation='torch'")
    return supported


def label_logprobs(hidden: Tensor, head: Head, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[label] in nats, float32 [N], without gradient; hidden [N, D], labels [N]."""
    chunk = torch_chunk_tokens(hidden.device, head.weight.shape[0])
    out = []
    with torch.no_grad():
        for start in range(0, hidden.shape[0], chunk):
            logits = chunk_logits(hidden[start : start + chunk], head) / temperature
            columns = labels[start : start + chunk, None]
            out.append(logits.gather(-1, columns).squeeze(-1) - logits.logsumexp(-1))
    return torch.cat(out) if out else hidden.new_zeros(0, dtype=torch.float32)


class _LinearObjective(torch.autograd.Function):
    """(hidden, weight, bias, arguments) → the loss, then the columns of TokenStats, which have no gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, arguments: LossArguments
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden.device.type, enabled=False):
            return _forward(ctx, hidden, weight, bias, arguments)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_loss: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)  # scaled without an intermediate tensor
        return (*(None if saved is None else scaled(saved, dtype, grad_loss) for saved, dtype in pairs), None)


def _forward(
    ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, arguments: LossArguments
) -> tuple[Tensor | None, ...]:
    """The outputs of `_LinearObjective`; saves the gradients of hidden, weight and bias in `ctx`."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    compute = weight.to(hidden.dtype)
    head = Head(compute, None if bias is None else bias.to(wide), arguments.scale, arguments.softcap)
    wants_hidden, wants_weight, wants_bias = (arguments.gradients and wanted for wanted in ctx.needs_input_grad[:3])
    wanted = wants_hidden or wants_weight or wants_bias
    grad_hidden = torch.empty_like(hidden) if wants_hidden else None
    grad_weight: Tensor | None = None
    grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if bias is not None and wants_bias else None
    total = hidden.new_zeros((), dtype=wide)
    stats: list[list[Tensor | None]] = []
    chunks = arguments.chunks(arguments, hidden, head, wanted)
    for group in _slices(0, hidden.shape[0], chunks.group_tokens):
        for part in _slices(group.start, group.stop, chunks.chunk_tokens):
            values, part_statistics = chunks.evaluate(part)
            total += torch.dot(values, arguments.weights[part].to(wide))
            stats.append([values.float(), *part_statistics])
        if not wanted:
            continue
        gradient = chunks.product_gradient(group.stop - group.start)
        if grad_bias is not None:
            grad_bias += gradient.sum(0, dtype=wide)
        gradient = gradient.to(hidden.dtype)
        if grad_hidden is not None:
            torch.mm(gradient, compute, out=grad_hidden[group])
        if grad_weight is not None:
            add_product(grad_weight, gradient.t(), hidden[group])
        elif wants_weight:  # the first group: saves writing and reading zeros
            grad_weight = product(gradient.t(), hidden[group])
        del gradient
    if wants_weight and grad_weight is None:
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
    ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
    ctx.dtypes = (hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype)
    columns = [join(column) for column in zip(*stats, strict=True)] if stats else [hidden.new_zeros(0)] * 7
    ctx.mark_non_differentiable(*[c for c in columns if c is not None])
    return (total, *columns)


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, stop)) for i in range(start, stop, size))


def _first_rows(head: Head, width: int) -> Head:
    """The head of the first `width` vocabulary entries."""
    if head.weight.shape[0] == width:
        return head
    return Head(head.weight[:width], None if head.bias is None else head.bias[:width], head.scale, head.softcap)
