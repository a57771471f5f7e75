"""What the row kernel can do, and its launch: values, statistics and gradient of a chunk of products."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import Head
from tutelage.loss import triton_kernel as row_kernel
from tutelage.loss.objective import CrossEntropy, Divergence, Objective, WeightedSum

# Entries of a vocabulary from which rows are shared. Measured at 128,256 alone; rows half as wide, one a
# multiprocessor, are what an H100's cache just holds between the passes.
WIDE = 65_536


@dataclass(frozen=True)
class RowObjective:
    """cross_entropy · CE + divergence · JSD_beta, the divergence of logits / temperature; what the kernel can do."""

    cross_entropy: float = 0.0
    divergence: float = 0.0
    beta: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class Programs:
    """How a row is shared out: logits of each model a step, warps a program, programs a row, registers a thread."""

    block: int = 4096
    warps: int = 32  # a program fills a multiprocessor
    parts: int = 1
    registers: int | None = None  # None: as many as the compiler likes


def programs_for(objective: RowObjective, width: int, device: torch.device) -> Programs:
    """The fastest way there was for this work on an H100 (docs/performance.md).

    Where three passes go over a row, as many programs share it as hold it whole in their registers, so that it is read
    once. They wait for one another, so all must have room on the card at the same time: two such kernels should not run
    there at once (two streams), when each might keep the other's programs out.
    """
    if device.type == "cpu":  # interpreted, where a reduction goes through a block place by place
        return Programs(block=128)
    three_passes = objective.divergence != 0.0 and objective.beta != 0.0
    if three_passes and torch.version.cuda and width >= WIDE:
        parts = 1 << (-(-width // Programs.block) - 1).bit_length()  # the power of two that is enough
        if parts <= torch.cuda.get_device_properties(device).multi_processor_count:
            return Programs(warps=8, parts=parts, registers=64)
    return Programs()


def row_objective(objective: Objective) -> RowObjective | None:
    """The objective in the kernel's terms, or None if it is none that the kernel knows."""
    if type(objective) is CrossEntropy:
        return RowObjective(cross_entropy=1.0)
    if type(objective) is Divergence:
        # log(M/S) is good to 6e-8 / β (and log(M/T) to 6e-8 / (1−β)) here: not for a β so near 0 or 1
        known = objective.beta in (0.0, 1.0) or 1e-3 <= objective.beta <= 1.0 - 1e-3
        known = known and objective.temperature > 0.0
        return RowObjective(0.0, 1.0, objective.beta, objective.temperature) if known else None
    if type(objective) is not WeightedSum:
        return None
    parts = [(weight, row_objective(part)) for weight, part in objective.parts]
    hard = [weight for weight, part in parts if part is not None and part.cross_entropy]
    soft = [(weight, part) for weight, part in parts if part is not None and part.divergence]
    simple = all(type(part) is not WeightedSum for _, part in objective.parts)
    if not simple or len(hard) > 1 or len(soft) > 1 or len(hard) + len(soft) != len(parts):
        return None
    if not soft:
        return RowObjective(cross_entropy=sum(hard))
    weight, part = soft[0]
    if hard and part.temperature != 1.0:  # the kernel sees the logits at one temperature
        return None
    return RowObjective(sum(hard), weight, part.beta, part.temperature)


def rows(
    objective: RowObjective,
    student: Tensor,
    student_head: Head,
    teacher: Tensor | None,
    teacher_head: Head | None,
    labels: Tensor,
    weights: Tensor,
    gradient: Tensor | None,
    statistics: bool = True,
    programs: Programs | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Values [n] and the six statistics [n] that follow the loss in TokenStats, float32.

    student, teacher: products [n, V], float32, contiguous, left as they are; of the heads only bias, scale and softcap
    are read. labels [n] in [0, V); weights [n] float32. gradient [n, V], of any floating type, is overwritten with
    weights[i] · d value[i] / d product[i]; None: not wanted. programs: how the work is shared out (None: the
    fastest way known); more than one a row needs a GPU.
    """
    values = torch.empty(student.shape[0], dtype=torch.float32, device=student.device)
    columns = torch.empty((6, student.shape[0]), dtype=torch.float32, device=student.device) if statistics else None
    together = objective.temperature == 1.0  # statistics are those of the models themselves, at temperature 1
    heads = (student_head, teacher_head)
    shared = columns if together else None
    pair = (student, teacher if objective.divergence or shared is not None else None)
    _launch(objective, pair, heads, labels, weights, values, shared, gradient, programs)
    if columns is not None and not together:
        _launch(RowObjective(), (student, teacher), heads, labels, weights, None, columns, None, programs)
    if columns is None:
        return values, [None] * 6
    hard, forward, reverse, s_entropy, t_entropy, agreement = columns.unbind()
    if teacher is None:
        return values, [hard, None, None, s_entropy, None, None]
    return values, [hard, forward, reverse, s_entropy, t_entropy, agreement]


def _launch(
    objective: RowObjective,
    products: tuple[Tensor, Tensor | None],
    heads: tuple[Head, Head | None],
    labels: Tensor,
    weights: Tensor,
    values: Tensor | None,
    statistics: Tensor | None,
    gradient: Tensor | None,
    programs: Programs | None,
) -> None:
    student, teacher = products
    count, width = student.shape
    if count == 0:
        return
    programs = programs or programs_for(objective, width, student.device)
    s_map = _map(heads[0], objective.temperature)
    t_map = s_map if heads[1] is None else _map(heads[1], objective.temperature)
    kinds = {0.0: row_kernel.FORWARD.value, 1.0: row_kernel.REVERSE.value}
    kind = kinds.get(objective.beta, row_kernel.JSD.value) if objective.divergence else 0
    # Where there is no tensor, another one stands in: the flags see to it that nobody reads it.
    stand_in = student
    parts = programs.parts
    board = student.new_empty((count, 13, parts)) if parts > 1 else stand_in
    arrived = torch.zeros(count, dtype=torch.int32, device=student.device) if parts > 1 else stand_in
    t_bias = None if heads[1] is None else heads[1].bias
    with torch.cuda.device(student.device) if student.is_cuda else contextlib.nullcontext():
        launch: Any = row_kernel.rows_kernel[(count * parts,)]  # Triton's types know nothing of num_warps
        launch(
            student,
            stand_in if heads[0].bias is None else heads[0].bias,
            s_map.inner,
            s_map.outer,
            s_map.kind,
            heads[0].bias is not None,
            stand_in if teacher is None else teacher,
            stand_in if t_bias is None else t_bias,
            t_map.inner,
            t_map.outer,
            t_map.kind,
            t_bias is not None,
            labels,
            weights,
            stand_in if values is None else values,
            stand_in if statistics is None else statistics,
            stand_in if gradient is None else gradient,
            board,
            arrived,
            s_map.slope,
            count,
            width,
            float(objective.cross_entropy),
            float(objective.divergence),
            objective.beta,
            1.0 - objective.beta,
            TEACHER=teacher is not None,
            KIND=kind,
            HALF=objective.beta == 0.5,
            HARD=objective.cross_entropy != 0.0,
            VALUES=values is not None,
            STATISTICS=statistics is not None,
            GRADIENT=gradient is not None,
            BLOCK=programs.block,
            PARTS=parts,
            HELD=parts * programs.block >= width,
            num_warps=programs.warps,
            **({} if programs.registers is None else {"maxnreg": programs.registers}),
        )


@dataclass(frozen=True)
class _Map:
    """From a product to a logit over the temperature: kind 0 as it is, 1 times `inner`, 2 outer · tanh(inner · …)."""

    kind: int
    inner: float
    outer: float
    slope: float  # d logit / d product, for kind 2 at zero


def _map(head: Head, temperature: float) -> _Map:
    if head.softcap is not None:
        inner, outer = head.scale / head.softcap, head.softcap / temperature
        return _Map(2, inner, outer, inner * outer)
    inner = head.scale / temperature
    return _Map(0 if inner == 1.0 else 1, inner, 1.0, inner)
