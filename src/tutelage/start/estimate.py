"""What a recipe will need on this machine: time, memory, disk, and what keeps it from starting.

GPUs: the cost model's formulas (`runs/cost`). CPUs: `runs/cost/cpu.py`, as `tutelage run` begins with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import EvaluateStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.cpu import COMMAND, cpu_seconds, measured_pace
from tutelage.runs.cost.disk import disk_of_all
from tutelage.runs.cost.memory import GIB
from tutelage.runs.kinds import cost_of
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import Misfit, misfits
from tutelage.runs.preflight.machine import Here
from tutelage.runs.run import Run, with_parents

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Estimate:
    """Of all runs of a recipe together; None where a model's size is not known."""

    hours: float | None  # beside what else runs here now
    gib: float | None  # of the largest run
    misfits: tuple[Misfit, ...] = ()
    busy: float = 1.0  # how many times as long as on quiet cores that is
    stages: Mapping[str, float] = field(default_factory=dict)  # hours by stage; EVALUATIONS: of all of them
    disk: float = 0.0  # GiB at the fullest moment


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
