"""What a recipe will need on this machine: time, memory, disk, and what keeps it from starting.

GPUs: the cost model's formulas (`runs/cost`). CPUs: `runs/cost/cpu.py`, as `tutelage run` begins with.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import EvaluateStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.cpu import COMMAND, cpu_seconds, measured_pace
from tutelage.runs.cost.disk import disk_of_all
from tutelage.runs.cost.facts import Machine, facts, machine
from tutelage.runs.cost.memory import GIB
from tutelage.runs.kinds import cost_of
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import Misfit, misfits
from tutelage.runs.preflight.machine import this_machine
from tutelage.runs.run import Run, with_parents

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Here:
    """This machine: its device, and what it is called."""

    device: str
    machine: Machine | None  # None: memory not known
    said: str


@dataclass(frozen=True)
class Estimate:
    """Of all runs of a recipe together; None where a model's size is not known."""

    hours: float | None  # beside what else runs here now
    gib: float | None  # of the largest run
    misfits: tuple[Misfit, ...] = ()
    busy: float = 1.0  # how many times as long as on quiet cores that is
    stages: Mapping[str, float] = field(default_factory=dict)  # hours by stage; EVALUATIONS: of all of them
    disk: float = 0.0  # GiB at the fullest moment


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


def estimate(runs: Sequence[Run], here: Here, template: ChatTemplate | None = None) -> Estimate:
    """What the runs need here, one after the other. `template`: of the student, by which rows are counted in tokens."""
    if here.machine is None:
        return Estimate(None, None)
    model = CostModel(here.machine, 1, template)
    costs = [(run, cost_of(run, model)) for run in runs]
    known = [(run, cost) for run, cost in costs if cost is not None]
    if len(known) < len(costs):
        return Estimate(None, None)
    gib, wrong = max(cost.memory_gib for _, cost in known), tuple(misfits(runs, model))
    pace = measured_pace() if here.device == "cpu" else None
    stages: dict[str, float] = defaultdict(float)
    for run, cost in known:
        hours = cost.hours if pace is None else cpu_seconds(run, cost, model, pace) / 3600
        stages[EVALUATIONS if run.kind == "evaluate" else run.stage] += hours
    disk = disk_of_all(runs, model).total / GIB
    beside = 0.0 if pace is None else COMMAND * pace.busy / 3600
    return Estimate(sum(stages.values()) + beside, gib, wrong, 1.0 if pace is None else pace.busy, stages, disk)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
