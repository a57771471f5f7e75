"""Running a study's plan, and saying how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.planner import resolve_device
from tutelage.runs.ranks import gpu_ids
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Scheduler
from tutelage.runs.store import Store
from tutelage.runs.worker import make_runs_folder
from tutelage.study.plan import StudyPlan


def run_study(
    plan: StudyPlan,
    *,
    jobs: int = 1,
    executor: str = "local",
    retry: bool = False,
    gpu_memory: float | None = None,
    gpus_per_run: float | None = None,
    store: Store | None = None,
    debug: bool = False,
) -> None:
    """Do what is not done yet. Raises TutelageError at the end when runs failed; the others are done all the same.

    `gpu_memory`: GiB that runs side by side may need together by the cost model. `gpus_per_run`: ranks of a training
    run; no two runs share a GPU then (with Ray they may, by a number below 1). `executor: ray`: runs are tasks of the
    Ray cluster that RAY_ADDRESS names, or of a local one; all its machines must see the runs folder, unless a `store`
    keeps the runs.
    """
    for device in sorted({run.device for run in plan.runs}):
        if executor == "local":
            resolve_device(device)
    make_runs_folder(plan.root)
    written = write_plan(plan)
    if store is not None:
        store.put(written)
        store.settle(plan.runs, push=True)
    model = CostModel(machine("H100"))

    def memory(run: Run) -> float:
        cost = model.cost(run)
        return cost.memory_gib if cost is not None else gpu_memory or 0.0

    pool, gpus = None, None
    ranks = _ranks(gpus_per_run, executor)
    cuda = any(run.device == "cuda" for run in plan.runs)
    if executor == "ray":
        from tutelage.runs.ray_pool import RayPool

        pool = RayPool((1.0 if gpus_per_run is None else gpus_per_run) if cuda else 0.0)
        jobs = max(jobs, pool.slots)
    elif executor != "local":
        raise TutelageError(f"no executor is called `{executor}`: choose local or ray")
    elif cuda and gpus_per_run is not None:
        gpus = gpu_ids(ranks)
    options: dict[str, Any] = {"patient": True, "retry": retry, "pool": pool, "ranks": ranks, "gpus": gpus}
    options |= {"store": store, "hours": model.hours}
    if gpu_memory is not None:
        options |= {"memory": memory, "budget": gpu_memory}
    with Scheduler(jobs, debug, **options) as workers:
        workers.execute(plan.runs)


def _ranks(gpus_per_run: float | None, executor: str) -> int:
    """A rank a GPU, one where none is asked for."""
    asked = 1.0 if gpus_per_run is None else gpus_per_run
    if asked != int(asked) and asked > 1:
        raise TutelageError(f"--gpus-per-run {asked:g}: a run has whole GPUs, or (with --executor ray) a part of one")
    if asked < 1 and executor != "ray":
        raise TutelageError(
            f"--gpus-per-run {asked:g}: runs share a GPU only with --executor ray, or without this option"
        )
    return max(1, int(asked))


def write_plan(plan: StudyPlan) -> Path:
    """`<runs>/<study>.study.json`: every cell with its folder, for programs and for reports of a copied runs folder."""
    content = {
        "study": plan.config.name,
        "cells": [
            {k: getattr(cell, k) for k in ("size", "student", "method", "teacher", "seed", "task")}
            | {"folder": run.folder.name}
            for cell, run in plan.points
        ],
        "runs": [run.folder.name for run in plan.runs],
    }
    return write_atomically(plan.root / f"{plan.config.name}.study.json", json.dumps(content, indent=1) + "\n")
