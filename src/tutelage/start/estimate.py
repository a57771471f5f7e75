"""What a recipe will need on this machine: time, memory, disk, and what keeps it from starting.

GPUs: the cost model's formulas (`runs/cost`). CPUs, for which they were not fitted: a product of matrices is timed, and
a training or reading pass is taken to reach 60 % of its rate, decoding half of that; AdamW moves 28 bytes per weight
and step at 10 GB/s. Compared with one run only: SFT of a 64M student, 28 tokens/s by this, 25 to 40 measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import EvaluateStage
from tutelage.runs.cost.cost_model import START_SECONDS, Cost, CostModel
from tutelage.runs.cost.facts import Machine, facts, machine
from tutelage.runs.kinds import cost_of
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import Misfit, misfits
from tutelage.runs.preflight.machine import this_machine
from tutelage.runs.run import Run, with_parents

CPU_SHARE, ADAM_BYTES, CPU_BANDWIDTH = 0.6, 28, 1e10


@dataclass(frozen=True)
class Here:
    """This machine: its device, and what it is called."""

    device: str
    machine: Machine | None  # None: memory not known
    said: str


@dataclass(frozen=True)
class Estimate:
    """Of all runs of a recipe together; None where a model's size is not known."""

    hours: float | None
    gib: float | None  # of the largest run
    misfits: tuple[Misfit, ...] = ()


def look_at_machine() -> Here:
    """This machine's GPUs, or its cores and memory."""
    import torch

    if not torch.cuda.is_available():
        here = this_machine("cpu")
        memory = f", {here.memory:.0f} GiB" if here else ""
        return Here("cpu", here, f"no GPU; {_cores()} CPU cores{memory}")
    here, name = this_machine("cuda"), torch.cuda.get_device_name(0)
    assert here is not None
    like = next((one for one in facts()["machines"] if one in name.replace(" ", "")), None)
    if like is not None:
        here = replace(machine(like), gpus=here.gpus, memory=here.memory)
    rates = "" if like else "; times are an H100's"
    many = f"{here.gpus} × " if here.gpus > 1 else ""
    return Here("cuda", here, f"{many}{name}, {here.memory:.0f} GiB{rates}")


def runs_of(config: RecipeConfig, folder: Path, root: Path, device: str) -> list[Run]:
    """All runs of the recipe with its first seed; asks no hub."""
    planner = Planner(config, folder, root, declared=True, auto_device=device)
    stages = [stage for stage in config.stages if isinstance(stage, EvaluateStage)]
    asked = [planner.evaluation(m, task, config.seeds[0]) for s in stages for m in s.models for task in s.tasks]
    return with_parents(asked)


def estimate(runs: Sequence[Run], here: Here) -> Estimate:
    """What the runs need here, one after the other."""
    if here.machine is None:
        return Estimate(None, None)
    model = CostModel(here.machine, 1)
    costs = [(run, cost_of(run, model)) for run in runs]
    known = [(run, cost) for run, cost in costs if cost is not None]
    if len(known) < len(costs):
        return Estimate(None, None)
    rate = _cpu_rate() if here.device == "cpu" else 0.0
    hours = sum(_cpu_hours(run, cost, model, rate) if rate else cost.hours for run, cost in known)
    gib = max(cost.memory_gib for _, cost in known)
    return Estimate(hours, gib, tuple(misfits(runs, model)))


def _cpu_hours(run: Run, cost: Cost, model: CostModel, rate: float) -> float:
    shapes = [shape for role in run.models if (shape := model.shape(run, role)) is not None]
    smallest = min(shapes, key=lambda shape: shape.weights, default=None)
    seconds = cost.flops / (CPU_SHARE * rate) + START_SECONDS
    if smallest is not None:
        seconds += cost.sampled * 2 * smallest.matrix_weights / (CPU_SHARE * rate)
    if run.training is not None and smallest is not None:
        rows = sum(model.rows(run, name).rows for name in run.data if name != run.training.validation)
        steps = max(1, rows // run.training.batch_size) * run.training.epochs
        seconds += steps * smallest.weights * ADAM_BYTES / CPU_BANDWIDTH
    return seconds / 3600


def _cpu_rate(size: int = 1024) -> float:
    """FLOP/s of float32 products of matrices, on as many threads as torch uses; the best within a second."""
    import torch

    a, best, end = torch.randn(size, size), float("inf"), time.perf_counter() + 1.0
    while (began := time.perf_counter()) < end:  # beside other programs a few products alone may all be slow
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
