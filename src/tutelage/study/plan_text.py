"""A study's plan as text and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.kinds import cost_of, label_of
from tutelage.runs.preflight import Problem, find_problems
from tutelage.runs.run import Run, with_parents
from tutelage.study.plan import StudyPlan


def counts(plan: StudyPlan) -> dict[str, int]:
    """Number of runs per kind."""
    return dict(Counter(label_of(run) for run in plan.runs))


def costs(plan: StudyPlan, on: str) -> dict[str, Cost | None]:
    """Costs by fingerprint, on a machine such as `8xH100`; None when the shape of a model is not known.

    Raises TutelageError for a machine that is not known.
    """
    model = CostModel(machine(on))
    return {run.fingerprint: cost_of(run, model) for run in plan.runs}


def plan_json(plan: StudyPlan, on: str) -> dict[str, Any]:
    """The plan as one JSON object: counts, all cells, all runs with fingerprint, parents, use and cost on a machine."""
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
        "problems": [vars(problem) for problem in problems(plan)],
    }


def problems(plan: StudyPlan) -> list[Problem]:
    """What the runs would lack on this machine, as far as it is known without asking the network."""
    found = find_problems(plan.runs, plan.root, network=False, here=False)
    return [problem for problem in found if problem.text not in plan.absent]


def plan_lines(plan: StudyPlan, on: str, evaluations: bool = False) -> list[str]:
    """The plan as lines of text, with costs on a machine. Evaluations are summed up per task unless `evaluations`."""
    cost = costs(plan, on)
    made = [run for run in plan.runs if evaluations or label_of(run) != "evaluation"]
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
    by_kind = Counter(label_of(run) for run in plan.runs if len(models[run.fingerprint]) > 1)
    shared = ", ".join(f"{n} {k}" for k, n in by_kind.items()) or "none"
    out += ["", f"done once for several measured models: {shared}"]
    return out + _closing(plan, on, cost)


def served(plan: StudyPlan) -> dict[str, set[str]]:
    """By fingerprint of a run: the measured models that need it, as fingerprints of the runs that made them."""
    found: dict[str, set[str]] = {run.fingerprint: set() for run in plan.runs}
    for model in {run.parents[0].fingerprint: run.parents[0] for _, run in plan.points if run.parents}.values():
        for one in with_parents([model]):
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
    return out + [f"{'missing here' if one.stops else 'note'}: {one.text}" for one in problems(plan)]


def _numbers(cost: Cost | None) -> str:
    if cost is None:
        return f"{'?':>4}  {'?':>7}  {'?':>8}  {'?':>8}  {'?':>9}  {'?':>7}"
    sign = "~" if cost.extrapolated else " "
    millions = (cost.tokens + cost.sampled) / 1e6
    return (
        f"{cost.gpus:>4}  {cost.memory_gib:>7.1f}  {cost.flops / 1e15:>8,.0f}  {millions:>8,.1f}  "
        f"{sign}{duration(3600 * cost.hours):>8}  {cost.dollars:>7,.2f}"
    )


def duration(seconds: float) -> str:
    """`90 s`, `12 min` or `3.4 h`."""
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
        "kind": label_of(run),
        "seed": run.seed,
        "done": run.done,
        "parents": [parent.fingerprint for parent in run.parents],
        "serves": plan.uses[run.fingerprint],  # cells
        "cost": None if cost is None else vars(cost),
    }
