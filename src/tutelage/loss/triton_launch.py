"""Which objectives the Triton loss kernel supports, and its launch on a chunk of products."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import Head
from tutelage.loss import triton_kernel
from tutelage.loss.objective import CrossEntropy, Divergence, Objective, WeightedSum

# Vocabulary size from which several programs share a row. Chosen at 128,256 only; at half of that, one row per
# multiprocessor just fits into an H100's cache between the passes.
WIDE_VOCABULARY = 65_536


@dataclass(frozen=True)
class KernelObjective:
    """cross_entropy · CE + divergence · JSD_beta(logits / temperature): the objectives that the kernel computes."""

    cross_entropy: float = 0.0
    divergence: float = 0.0
    beta: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class LaunchConfig:
    """How the work on a row is divided on the device."""

    block: int = 4096  # logits of each model per loop step
    warps: int = 32  # per program; 32 fill a multiprocessor
    programs: int = 1  # per row
    registers: int | None = None  # per thread; None: the compiler decides
    pieces: int = 1  # into which a block held in registers is divided


# Rows of a wide vocabulary, by what is computed: as many programs share a row as hold it in their registers. These were
# the fastest of thirteen divisions on one H200; `python -m bench.loss --device cuda --tune` times them and others.
WIDE = {
    "mean": LaunchConfig(warps=4, registers=96, pieces=8),  # β > 0: the gradient depends on a sum over the row
    "teacher": LaunchConfig(warps=4, registers=96, pieces=8),
    "label": LaunchConfig(warps=4, pieces=8),  # without a teacher
}


def launch_config(objective: KernelObjective, width: int, device: torch.device, teacher: bool) -> LaunchConfig:
    """How to divide the rows of this objective, by vocabulary size; `teacher`: its logits are read too.

    A wide row gets as many programs as hold it in their registers, so that each logit is read once. The programs of a
    row synchronise, so all must be resident at once: do not launch two such kernels on two streams, they can deadlock.
    Where processes share the device at the same moment (NVIDIA's MPS), rows are therefore not shared.
    """
    if device.type == "cpu":  # Triton's interpreter reduces a block element by element
        return LaunchConfig(block=128)
    if torch.version.cuda and width >= WIDE_VOCABULARY and not _under_mps():
        mean = objective.divergence != 0.0 and objective.beta != 0.0
        config = WIDE["mean" if mean else "teacher" if teacher else "label"]
        count = programs_of(config, width)
        if count <= torch.cuda.get_device_properties(device).multi_processor_count:
            return replace(config, programs=count)
    return LaunchConfig()


def _under_mps() -> bool:
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), "control").exists()


def programs_of(config: LaunchConfig, width: int) -> int:
    """The smallest power of two of programs whose blocks cover a row."""
    return 1 << (-(-width // config.block) - 1).bit_length()


def kernel_objective(objective: Objective) -> KernelObjective | None:
    """The objective in the kernel's terms, or None if the kernel does not support it."""
    if type(objective) is CrossEntropy:
        return KernelObjective(cross_entropy=1.0)
    if type(objective) is Divergence:
        # The error of log(M/S) is 6e-8 / β and that of log(M/T) 6e-8 / (1−β): too large for β close to 0 or 1.
        supported = objective.beta in (0.0, 1.0) or 1e-3 <= objective.beta <= 1.0 - 1e-3
        supported = supported and objective.temperature > 0.0
        return KernelObjective(0.0, 1.0, objective.beta, objective.temperature) if supported else None
    if type(objective) is not WeightedSum:
        return None
    parts = [(weight, kernel_objective(part)) for weight, part in objective.parts]
    hard = [weight for weight, part in parts if part is not None and part.cross_entropy]
    soft = [(weight, part) for weight, part in parts if part is not None and part.divergence]
    simple = all(type(part) is not WeightedSum for _, part in objective.parts)
    if not simple or len(hard) > 1 or len(soft) > 1 or len(hard) + len(soft) != len(parts):
        return None
    if not soft:
        return KernelObjective(cross_entropy=sum(hard))
    weight, part = soft[0]
    if hard and part.temperature != 1.0:  # the kernel applies one temperature to all terms
        return None
    return KernelObjective(sum(hard), weight, part.beta, part.temperature)


def evaluate_chunk(
    objective: KernelObjective,
    student: Tensor,
    student_head: Head,
    teacher: Tensor | None,
    teacher_head: Head | None,
    labels: Tensor,
    weights: Tensor,
    gradient: Tensor | None,
    statistics: bool = True,
    config: LaunchConfig | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Values [n] in nats and the six statistics [n] that follow the loss in TokenStats, float32.

    student, teacher: products [n, V], float32, contiguous, not changed; of the heads only bias, scale and softcap are
    read. labels [n] in [0, V); weights [n] float32. gradient [n, V], of any floating type, is overwritten with
    weights[i] · d value[i] / d product[i]; None: no gradient. config: by default that of `launch_config`; several
    programs per row need a GPU.
    """
    values = torch.empty(student.shape[0], dtype=torch.float32, device=student.device)
    columns = torch.empty((6, student.shape[0]), dtype=torch.float32, device=student.device) if statistics else None
    one_launch = objective.temperature == 1.0  # statistics are always those at temperature 1
    heads = (student_head, teacher_head)
    statistics_too = columns if one_launch else None
    needed = (student, teacher if objective.divergence or statistics_too is not None else None)
    _launch(objective, needed, heads, labels, weights, values, statistics_too, gradient, config)
    if columns is not None and not one_launch:
        _launch(KernelObjective(), (student, teacher), heads, labels, weights, None, columns, None, config)
    if columns is None:
        return values, [None] * 6
    hard, forward, reverse, s_entropy, t_entropy, agreement = columns.unbind()
    if teacher is None:
        return values, [hard, None, None, s_entropy, None, None]
    return values, [hard, forward, reverse, s_entropy, t_entropy, agreement]


def _launch(
    objective: KernelObjective,
    products: tuple[Tensor, Tensor | None],
    heads: tuple[Head, Head | None],
    labels: Tensor,
    weights: Tensor,
    values: Tensor | None,
    statistics: Tensor | None,
    gradient: Tensor | None,
    config: LaunchConfig | None,
) -> None:
    student, teacher = products
    count, width = student.shape
    if count == 0:
        return
    config = config or launch_config(objective, width, student.device, teacher is not None)
    s_map = _logit_map(heads[0], objective.temperature)
    t_map = s_map if heads[1] is None else _logit_map(heads[1], objective.temperature)
    kinds = {0.0: triton_kernel.FORWARD.value, 1.0: triton_kernel.REVERSE.value}
    kind = kinds.get(objective.beta, triton_kernel.JSD.value) if objective.divergence else 0
    # A missing tensor is replaced by another one, which the flags keep from being read.
    placeholder = student
    several = config.programs > 1
    scratch = student.new_empty((count, triton_kernel.SCRATCH.value, config.programs)) if several else placeholder
    arrived = torch.zeros(count, dtype=torch.int32, device=student.device) if several else placeholder
    t_bias = None if heads[1] is None else heads[1].bias
    with torch.cuda.device(student.device) if student.is_cuda else contextlib.nullcontext():
        kernel: Any = triton_kernel.loss_kernel[(count * config.programs,)]  # Triton's types lack num_warps
        kernel(
            student,
            placeholder if heads[0].bias is None else heads[0].bias,
            s_map.inner,
            s_map.outer,
            s_map.kind,
            heads[0].bias is not None,
            placeholder if teacher is None else teacher,
            placeholder if t_bias is None else t_bias,
            t_map.inner,
            t_map.outer,
            t_map.kind,
            t_bias is not None,
            labels,
            weights,
            placeholder if values is None else values,
            placeholder if statistics is None else statistics,
            placeholder if gradient is None else gradient,
            scratch,
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
            BLOCK=config.block,
            PIECES=config.pieces,
            PROGRAMS=config.programs,
            IN_REGISTERS=config.programs * config.block >= width,
            num_warps=config.warps,
            **({} if config.registers is None else {"maxnreg": config.registers}),
        )


@dataclass(frozen=True)
class _LogitMap:
    """logit / temperature as a function of the product p: kind 0 is p, 1 is inner · p, 2 is outer · tanh(inner · p)."""

    kind: int
    inner: float
    outer: float
    slope: float  # d logit / d product; for kind 2 at p = 0


def _logit_map(head: Head, temperature: float) -> _LogitMap:
    if head.softcap is not None:
        inner, outer = head.scale / head.softcap, head.softcap / temperature
        return _LogitMap(2, inner, outer, inner * outer)
    inner = head.scale / temperature
    return _LogitMap(0 if inner == 1.0 else 1, inner, 1.0, inner)
