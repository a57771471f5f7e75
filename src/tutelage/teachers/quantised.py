"""What a quantised teacher costs: its distance from the same model unquantised, on a run's own first micro-batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import MicroBatch, Signal, TeacherSignal
from tutelage.loss.fused_linear import linear_objective
from tutelage.loss.objective import Divergence, Objective
from tutelage.models.load import LoadedModel, load_model, stream_model
from tutelage.recipe.sections import ModelConfig
from tutelage.teachers.local import LocalTeacher
from tutelage.teachers.protocol import Teacher

WARN = 0.1  # share of the distillation loss
_ROOM = 1.2  # weights times this must be free for the unquantised model to be loaded whole


@dataclass(frozen=True)
class PrecisionCost:
    """Means per response token, in nats."""

    precision: str
    kl: float  # KL(unquantised ‖ quantised)
    change: float  # the run's own loss between the two: what a student that is the unquantised teacher would have
    loss: float  # of the student, before its first step
    tokens: int

    @property
    def share(self) -> float | None:
        """`change` as a share of `loss`; None where that is 0."""
        return self.change / self.loss if self.loss > 0.0 else None

    @property
    def text(self) -> str:
        """One line."""
        share = "more than all" if self.share is None else f"{self.share:.1%}"
        return (
            f"teacher in {self.precision}: KL {self.kl:.2g} nats from the unquantised one; as a loss {self.change:.2g}"
            f", {share} of the first distillation loss {self.loss:.3g} ({self.tokens:,} tokens of the first batch)"
        )

    @property
    def too_much(self) -> bool:
        """Whether the student would learn the rounding: more than a tenth of the distillation loss."""
        return self.share is None or self.share > WARN


def precision_cost(
    teacher: Teacher,
    loaded: LoadedModel,
    config: ModelConfig,
    student_loss: Callable[[MicroBatch, Objective, Signal], Tensor],
    student_end_id: int,
    batch: MicroBatch,
    objective: Objective,
) -> PrecisionCost:
    """Measure the quantised `teacher` of `config` on a micro-batch on the device. `loaded`: its model, or one without
    weights where its signal is read from disk; `student_loss`: the student's weighted loss. An objective that is no
    divergence is replaced by KL(T ‖ S).

    The unquantised model is loaded whole where it fits, else streamed from its files one layer at a time.
    """
    measured = objective if isinstance(objective, Divergence) else Divergence(0.0)
    count = len(batch.labels)
    even = dataclasses.replace(batch, weights=torch.full_like(batch.weights, 1.0 / count))
    with torch.no_grad(), torch.random.fork_rng():
        quantised = teacher.signal(batch)
        assert isinstance(quantised, TeacherSignal)  # preflight refuses the likeliest tokens of a quantised teacher
        loss = student_loss(even, measured, quantised)
        whole = _unquantised(config, loaded, batch.input_ids.device, quantised.head.weight.dtype)
        reference = LocalTeacher(whole, student_end_id).signal(batch)
        change, stats = _loss(measured, quantised, reference, even)
    kl = stats.forward_kl
    assert kl is not None
    assert config.precision is not None
    return PrecisionCost(config.precision, float(kl.mean()), float(change), float(loss), count)


def _loss(objective: Objective, student: TeacherSignal, teacher: TeacherSignal, batch: MicroBatch) -> Any:
    hidden = student.hidden.to(teacher.hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        return linear_objective(objective, hidden, student.head, teacher, batch.labels, batch.weights)


def _unquantised(config: ModelConfig, quantised: LoadedModel, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    plain = config.model_copy(update={"precision": None})
    # A quantised parameter's shape need not be its weight's (four bits are packed), so bytes are counted: nf4 at most.
    factor = {"int8": dtype.itemsize, "float8": dtype.itemsize, "nf4": 2 * dtype.itemsize}[config.precision or "int8"]
    need = _ROOM * factor * sum(p.numel() for p in quantised.model.parameters())
    if need < _free_bytes(device):
        return load_model(plain, device, dtype)
    return dataclasses.replace(quantised, model=stream_model(plain, device, dtype, quantised.packed))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
