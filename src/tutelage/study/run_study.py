"""Running a study's plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.progress import told_once
from tutelage.recipe.owner import other_owner, owner_of
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.hosts.joined import joined
from tutelage.runs.kinds import cost_of, hours_of
from tutelage.runs.planner import resolve_device
from tutelage.runs.preflight import find_problems, refuse_problems
from tutelage.runs.ranks import gpu_ids, shared_gpus
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.store import Store
from tutelage.runs.worker import make_runs_folder
from tutelage.study.plan import StudyPlan


@told_once()
def run_study(
    plan: StudyPlan,
    *,
    jobs: int = 1,
    executor: str = "local",
    retry: bool = False,
    gpu_memory: float | None = None,
    gpus_per_run: float | None = None,
    store: Store | None = None,
    first: Callable[[], None] | None = None,
    debug: bool = False,
) -> None:
    """Do the runs of the plan that are not done yet. When some fail, the others are done all the same, and then this
    raises TutelageError.

    `jobs`: runs at the same time. `executor`: `local`, or `ray`: runs are tasks of the Ray cluster that RAY_ADDRESS
    names, else of a local one; its machines share the runs folder, unless a `store` keeps the runs. `retry`: try again
    runs that failed in an earlier call. `gpu_memory`: GiB that runs at the same time may need together, by the cost
    model. `gpus_per_run`: ranks of a training run; no two runs then share a GPU (with Ray, a number below 1 lets them).
    `first`: work of the study's own, such as its forecasts, done before the runs, after the checks of what they need.
    """
    for device in sorted({run.device for run in plan.runs}):
        if executor == "local":
            resolve_device(device)
    started = joined()  # by a launcher
    ranks = _ranks(gpus_per_run, executor) if started is None else started.world
    make_runs_folder(plan.root)
    written = write_plan(plan)
    if store is not None:
        store.put(written)
        store.settle(plan.runs, push=True)
    refuse_problems(find_problems(plan.runs, plan.root, here=executor == "local", ranks=ranks, jobs=jobs))
    if first is not None:
        first()
    model = CostModel(machine("H100"), ranks)

    def memory(run: Run) -> float:
        cost = cost_of(run, model)
        return cost.memory_gib if cost is not None else gpu_memory or 0.0

    pool, gpus, shared = None, None, []
    cuda = any(run.device == "cuda" for run in plan.runs)
    if executor == "ray":
        from tutelage.runs.hosts.ray_pool import RayPool

        pool = RayPool((1.0 if gpus_per_run is None else gpus_per_run) if cuda else 0.0, ranks)
        jobs = max(jobs, pool.slots)
    elif executor != "local":
        raise TutelageError(f"no executor is called `{executor}`: choose local or ray")
    elif cuda and gpus_per_run is not None:
        gpus = gpu_ids(ranks)
    elif cuda:
        shared = shared_gpus(plan.runs, jobs)
    resources = Resources(jobs, ranks=ranks, gpus=gpus, shared_gpus=shared, memory=memory, budget=gpu_memory)

    def hours(run: Run) -> float:
        return hours_of(run, model)

    options: dict[str, Any] = {"patient": True, "retry": retry, "title": plan.config.name}
    with Scheduler(resources, debug, hours=hours, pool=pool, store=store, **options) as scheduler:
        scheduler.execute(plan.runs)


def _ranks(gpus_per_run: float | None, executor: str) -> int:
    """One rank per GPU; 1 by default."""
    asked = 1.0 if gpus_per_run is None else gpus_per_run
    if asked != int(asked) and asked > 1:
        raise TutelageError(f"--gpus-per-run {asked:g}: give a whole number, or (with --executor ray) part of one GPU")
    if asked < 1 and executor != "ray":
        raise TutelageError(
            f"--gpus-per-run {asked:g}: runs can share a GPU only with --executor ray, or without this option"
        )
    return max(1, int(asked))


def write_plan(plan: StudyPlan) -> Path:
    """Write `<runs>/<study>.study.json`, every cell with its folder, for other programs; returns its path.

    Raises TutelageError where that of another study of the same name is there.
    """
    target = plan.root / f"{plan.config.name}.study.json"
    try:
        before = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    other = other_owner(before, plan.root, plan.file)
    if other is not None:
        raise TutelageError(f"{target} is of another study of this name, {other}: give one of the two another `name`")
    content = {
        **owner_of(plan.root, plan.file, plan.config.name),
        "study": plan.config.name,
        "cells": [
            {k: getattr(cell, k) for k in ("size", "student", "method", "teacher", "seed", "task")}
            | {"folder": run.folder.name}
            for cell, run in plan.points
        ],
        "runs": [run.folder.name for run in plan.runs],
    }
    return write_atomically(target, json.dumps(content, indent=1) + "\n")
