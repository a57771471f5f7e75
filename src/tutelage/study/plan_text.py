"""A study's plan, for people and for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.run import Run, made_from
from tutelage.study.plan import StudyPlan, kind_of


def counts(plan: StudyPlan) -> dict[str, int]:
    """Runs by kind."""
    return dict(Counter(kind_of(run) for run in plan.runs))


def costs(plan: StudyPlan, on: str) -> dict[str, Cost | None]:
    """By fingerprint; None where a model's shape is not known."""
    model = CostModel(machine(on))
    return {run.fingerprint: model.cost(run) for run in plan.runs}


def plan_json(plan: StudyPlan, on: str) -> dict[str, Any]:
    """The plan as one object: counts, every run with fingerprint, dependencies, use and cost, every cell."""
    cost = costs(plan, on)
    return {
        "study": plan.config.name,
        "machine": on,
        "counts": counts(plan),
        "cells": [
            {k: getattr(cell, k) for k in ("size", "student", "method", "teacher", "seed", "task")}
            | {"run": run.fingerprint}
            for cell, run in plan.points
        ],
        "runs": [_run_json(plan, run, cost[run.fingerprint]) for run in plan.runs],
        "totals": _totals(list(cost.values())),
        "absent": list(plan.absent),
    }


def plan_lines(plan: StudyPlan, on: str, evaluations: bool = False) -> list[str]:
    """The plan for people. Evaluations are summed up by task unless asked for."""
    cost = costs(plan, on)
    made = [run for run in plan.runs if evaluations or kind_of(run) != "evaluation"]
    models = served(plan)
    trained = {run.parents[0].fingerprint for _, run in plan.points if run.parents}
    out = [
        f"{plan.config.name}: {len(plan.runs)} runs: " + ", ".join(f"{n} {k}" for k, n in counts(plan).items()),
        f"{len(plan.points)} cells of {len(trained)} trained models; {sum(run.done for run in plan.runs)} runs done",
        "",
        "fingerprint   serves  GPUs  GiB/GPU     PFLOP   Mtokens       time        $  run  (← what it builds on)",
    ]
    for run in made:
        parents = ", ".join(parent.fingerprint for parent in run.parents)
        name = f"{run.folder.name.removesuffix('-' + run.fingerprint)}{' (done)' if run.done else ''}"
        line = f"{run.fingerprint}  {len(models[run.fingerprint]):>6}  {_numbers(cost[run.fingerprint])}  {name}"
        out.append(line + (f"  ← {parents}" if parents else ""))
    if not evaluations:
        out += ["", *_by_task(plan, cost)]
    by_kind = Counter(kind_of(run) for run in plan.runs if len(models[run.fingerprint]) > 1)
    said = ", ".join(f"{n} {k}" for k, n in by_kind.items()) or "none"
    out += ["", f"done once for several measured models: {said}"]
    return out + _closing(plan, on, cost)


def served(plan: StudyPlan) -> dict[str, set[str]]:
    """By fingerprint: the measured models (fingerprints of the runs that made them) that a run is needed for."""
    found: dict[str, set[str]] = {run.fingerprint: set() for run in plan.runs}
    for model in {run.parents[0].fingerprint: run.parents[0] for _, run in plan.points if run.parents}.values():
        for one in made_from(model):
            found[one.fingerprint].add(model.fingerprint)
    return found


def _by_task(plan: StudyPlan, cost: dict[str, Cost | None]) -> list[str]:
    out = []
    runs = {run.fingerprint: run for _, run in plan.points}.values()
    for task in dict.fromkeys(run.task for run in runs):
        own = [run for run in runs if run.task == task]
        total = _totals([cost[run.fingerprint] for run in own])
        out.append(f"{len(own)} models on {task}: {duration(3600 * total['hours'])}, {total['dollars']:,.2f} $")
    return out


def _closing(plan: StudyPlan, on: str, cost: dict[str, Cost | None]) -> list[str]:
    known = [one for one in cost.values() if one is not None]
    total = _totals(list(cost.values()))
    out = [
        f"in all on {on}: {total['flops']:.2e} FLOP, {total['hours']:,.1f} h one run after the other, "
        f"{total['gpu_hours']:,.0f} GPU hours, {total['dollars']:,.0f} $ (prices are assumptions)"
    ]
    if any(one.extrapolated for one in known):
        number = sum(one.extrapolated for one in known)
        out.append(f"~ {number} of {len(known)} figures are extrapolated: one H100 and teachers to 8B were measured")
    if machine(on).gpus and any(one.gpus > machine(on).gpus for one in known):
        out.append("! more GPUs than the machine has: the run does not fit on it, and several are counted")
    if len(known) < len(cost):
        out.append(f"? {len(cost) - len(known)} runs with a model of unknown shape have no figures")
    out += [f"not here, so fingerprints are provisional: {line}" for line in plan.absent[:5]]
    return out


def _numbers(cost: Cost | None) -> str:
    if cost is None:
        return f"{'?':>4}  {'?':>7}  {'?':>8}  {'?':>8}  {'?':>9}  {'?':>7}"
    mark = "~" if cost.extrapolated else " "
    millions = (cost.tokens + cost.sampled) / 1e6
    return (
        f"{cost.gpus:>4}  {cost.memory_gib:>7.1f}  {cost.flops / 1e15:>8,.0f}  {millions:>8,.1f}  "
        f"{mark}{duration(3600 * cost.hours):>8}  {cost.dollars:>7,.2f}"
    )


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _totals(costs: list[Cost | None]) -> dict[str, float]:
    known = [one for one in costs if one is not None]
    return {
        "flops": sum(one.flops for one in known),
        "tokens": sum(one.tokens + one.sampled for one in known),
        "hours": sum(one.hours for one in known),
        "gpu_hours": sum(one.hours * one.gpus for one in known),
        "dollars": sum(one.dollars for one in known),
    }


def _run_json(plan: StudyPlan, run: Run, cost: Cost | None) -> dict[str, Any]:
    return {
        "fingerprint": run.fingerprint,
        "folder": run.folder.name,
        "stage": run.stage,
        "kind": kind_of(run),
        "seed": run.seed,
        "done": run.done,
        "parents": [parent.fingerprint for parent in run.parents],
        "serves": plan.uses[run.fingerprint],  # cells
        "cost": None if cost is None else vars(cost),
    }
