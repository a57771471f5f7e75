"""A study's plan as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tutelage.common.errors import TutelageError, first_of
from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.cost.disk import Disk, disk_of_all
from tutelage.runs.cost.facts import machine
from tutelage.runs.cost.memory import GIB, shares
from tutelage.runs.kinds import cost_of, label_of
from tutelage.runs.preflight import Misfit, Problem, blocked, find_problems, misfits
from tutelage.runs.preflight.machine import disk_text, downloads, free_disk
from tutelage.runs.run import Run, gpus_of, with_parents
from tutelage.study.plan import StudyPlan


def counts(plan: StudyPlan) -> dict[str, int]:
    """Number of runs per kind."""
    return dict(Counter(label_of(run) for run in plan.runs))


@dataclass(frozen=True)
class Priced:
    """A plan on a machine such as `8xH200`, with `ranks` GPUs per training run."""

    on: str
    model: CostModel
    costs: dict[str, Cost | None]  # by fingerprint; None when the shape of a model is not known
    misfits: list[Misfit]  # of runs that are not done
    blocked: int  # runs that build on those that cannot start
    disk: Disk  # that runs which are not done will fill
    downloads: float  # bytes of hub models that they load

    @property
    def stuck(self) -> set[str]:
        """Fingerprints of the runs that cannot start."""
        return {run.fingerprint for misfit in self.misfits if misfit.stops for run in misfit.runs}

    def totals(self, runs: Iterable[Run]) -> dict[str, float]:
        """Sums over those of `runs` that can start and have known costs."""
        stuck = self.stuck
        found = [self.costs[run.fingerprint] for run in runs if run.fingerprint not in stuck]
        known = [one for one in found if one is not None]
        return {
            "flops": sum(one.flops for one in known),
            "tokens": sum(one.tokens + one.sampled for one in known),
            "hours": sum(one.hours for one in known),
            "gpu_hours": sum(one.hours * one.gpus for one in known),
            "dollars": sum(one.dollars for one in known),
        }

    def least_hours(self, runs: Iterable[Run]) -> float:
        """Hours at best with runs side by side: of the longest chain of `runs` that can start, or as many as keep all
        GPUs busy."""
        able, chains = [run for run in runs if run.fingerprint not in self.stuck], dict[str, float]()
        for run in able:  # parents come first
            cost = self.costs[run.fingerprint]
            before = max((chains.get(parent.fingerprint, 0.0) for parent in run.parents), default=0.0)
            chains[run.fingerprint] = before + (cost.hours if cost is not None else 0.0)
        return max([*chains.values(), self.totals(able)["gpu_hours"] / self.model.machine.gpus])


def priced(plan: StudyPlan, on: str, ranks: int | None = None) -> Priced:
    """The plan's costs and what cannot start. `ranks`: by default, all GPUs of the machine.

    Raises TutelageError for a machine that is not known, or has fewer GPUs than `ranks`.
    """
    where = machine(on)
    if ranks is not None and ranks > where.gpus:
        raise TutelageError(f"--gpus-per-run {ranks}: {on} has {where.gpus} GPUs: ask for fewer, or plan for more")
    model, waiting = CostModel(where, ranks), [run for run in plan.runs if not run.done]
    found = misfits(waiting, model)
    costs = {run.fingerprint: cost_of(run, model) for run in plan.runs}
    disk = disk_of_all(waiting, model)
    return Priced(on, model, costs, found, blocked(waiting, found), disk, downloads(waiting))


def plan_json(plan: StudyPlan, on: str, ranks: int | None = None) -> dict[str, Any]:
    """The plan as one JSON object: counts, all cells, all runs with fingerprint, parents, use and cost on a machine,
    what cannot start there (and what it may just hold), and the disk in bytes."""
    cost = priced(plan, on, ranks)
    return {
        "study": plan.config.name,
        "machine": on,
        "gpus_per_training_run": cost.model.ranks,
        "counts": counts(plan),
        "cells": [
            {k: getattr(cell, k) for k in ("size", "student", "method", "teacher", "seed", "task")}
            | {"run": run.fingerprint}
            for cell, run in plan.points
        ],
        "runs": [_run_json(plan, run, cost.costs[run.fingerprint], cost.model) for run in plan.runs],
        "totals": cost.totals(plan.runs) | {"least_hours": cost.least_hours(plan.runs)},
        "misfits": [
            {key: getattr(one, key) for key in ("kind", "stops", "need", "parts", "fix")}
            | {"runs": [run.fingerprint for run in one.runs]}
            for one in cost.misfits
        ],
        "disk": vars(cost.disk) | {"downloads": cost.downloads, "free": free_disk(plan.root)},
        "absent": list(plan.absent),
        "problems": [vars(problem) for problem in problems(plan)],
    }


def problems(plan: StudyPlan) -> list[Problem]:
    """What the runs would lack on this machine, as far as it is known without asking the network."""
    found = find_problems(plan.runs, plan.root, network=False, here=False)
    return [problem for problem in found if problem.text not in plan.absent]


def plan_lines(plan: StudyPlan, on: str, evaluations: bool = False, ranks: int | None = None) -> list[str]:
    """The plan as lines of text, with costs on a machine. Evaluations are summed up per task unless `evaluations`."""
    cost = priced(plan, on, ranks)
    made = [run for run in plan.runs if evaluations or label_of(run) != "evaluation"]
    models, stuck = served(plan), cost.stuck
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
        numbers = _numbers(cost.costs[run.fingerprint], run.fingerprint in stuck)
        line = f"{run.fingerprint}  {len(models[run.fingerprint]):>6}  {numbers}  {name}"
        out.append(line + (f"  ← {parents}" if parents else ""))
    if not evaluations:
        out += ["", *_by_task(plan, cost)]
    out += ["", "how they are placed, and GiB per GPU of the largest of each:", *_placements(plan, cost)]
    by_kind = Counter(label_of(run) for run in plan.runs if len(models[run.fingerprint]) > 1)
    shared = ", ".join(f"{n} {k}" for k, n in by_kind.items()) or "none"
    out += ["", f"done once for several measured models: {shared}"]
    return out + _closing(plan, cost) + _unfit(cost)


def served(plan: StudyPlan) -> dict[str, set[str]]:
    """By fingerprint of a run: the measured models that need it, as fingerprints of the runs that made them."""
    found: dict[str, set[str]] = {run.fingerprint: set() for run in plan.runs}
    for model in {run.parents[0].fingerprint: run.parents[0] for _, run in plan.points if run.parents}.values():
        for one in with_parents([model]):
            found[one.fingerprint].add(model.fingerprint)
    return found


def placement(run: Run, model: CostModel) -> str:
    """Where a run is on the model's machine: ranks, hosts, and what they share."""
    ranks, machine = model.ranks, model.machine
    if run.training is None:
        gpus = gpus_of(run, 1)
        return f"{gpus} GPUs of a host hold its models together (vLLM)" if gpus > 1 else "one GPU"
    if ranks == 1:
        return "one GPU"
    hosts, parts = -(-ranks // machine.gpus_per_host), shares(run.training, machine, ranks)
    where = f"{ranks} ranks on {hosts} hosts" if hosts > 1 else f"{ranks} ranks on one host"
    if parts == 1:
        return f"{where}, each with whole models (DDP)"
    return f"{where}, shared by all (FSDP2)" if parts == ranks else f"{where}, shared within each (HSDP)"


def _placements(plan: StudyPlan, cost: Priced) -> list[str]:
    """One line per kind of run and place."""
    groups: dict[tuple[str, str], list[Cost]] = {}
    for run in plan.runs:
        found = cost.costs[run.fingerprint]
        if found is not None and found.gpus:
            groups.setdefault((label_of(run), placement(run, cost.model)), []).append(found)
    out = []
    for (kind, where), members in groups.items():
        parts = max(members, key=lambda one: one.memory_gib).memory_parts
        held = ", ".join(f"{name} {size:,.1f}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))
        out.append(f"  {len(members)} {kind}: {where}: {held}")
    return out


def _by_task(plan: StudyPlan, cost: Priced) -> list[str]:
    out = []
    runs = {run.fingerprint: run for _, run in plan.points}.values()
    for task in dict.fromkeys(run.task for run in runs):
        own = [run for run in runs if run.task == task]
        total = cost.totals(own)
        out.append(f"{len(own)} models on {task}: {duration(3600 * total['hours'])}, {total['dollars']:,.2f} $")
    return out


def _closing(plan: StudyPlan, cost: Priced) -> list[str]:
    known = [one for one in cost.costs.values() if one is not None]
    total, stuck, ranks = cost.totals(plan.runs), len(cost.stuck), cost.model.ranks
    each = f"--gpus-per-run {ranks} for training" if ranks > 1 else "one GPU per run"
    gpus = cost.model.machine.gpus
    beside = f", {cost.least_hours(plan.runs):,.1f} h at best side by side" if gpus > 1 else ""
    without = f", without {stuck} runs that cannot start" if stuck else ""
    out = [
        f"in all on {cost.on}, {each}{without}:",
        f"  {total['flops']:.2e} FLOP, {total['hours']:,.1f} h one after the other{beside}, "
        f"{total['gpu_hours']:,.0f} GPU hours, {total['dollars']:,.0f} $ (assumed prices)",
        f"  disk {disk_text(cost.disk)}; {free_disk(plan.root) / GIB:,.1f} free",
    ]
    if (forecast := plan.config.forecast) is not None:
        share = f", pilots for up to {forecast.budget:.0%} of both arms each (the first in any case)"
        out.append(
            f"  not counted: {len(plan.distilled)} forecasts, made before these runs by evaluations of the untrained "
            f"models{'' if forecast.pilot == 'none' else share}"
        )
    if cost.downloads:
        out.append(f"  {cost.downloads / GIB:,.1f} GiB to download into the hub's cache, of models whose size is known")
    if any(one.extrapolated for one in known):
        number = sum(one.extrapolated for one in known)
        out.append(f"~ {number} of {len(known)} figures are extrapolated: measured were one H100, and two H200 to 70B")
    if len(known) < len(cost.costs):
        out.append(f"? {len(cost.costs) - len(known)} runs with a model of unknown shape have no figures")
    absent, left = first_of(plan.absent, 5)
    out += [f"not here, so fingerprints are provisional: {line}" for line in absent]
    out += [f"not here either: {left} more"] * (left > 0)
    return out + [f"{'missing here' if one.stops else 'note'}: {one.text}" for one in problems(plan)]


def _unfit(cost: Priced) -> list[str]:
    """What cannot start, and what may just fit: some lines per kind and reason."""
    out = []
    for stops, title in ((True, f"cannot start on {cost.on}"), (False, f"close to the memory of {cost.on}")):
        found = [one for one in cost.misfits if one.stops == stops]
        count = sum(len(one.runs) for one in found)
        build = f"; {cost.blocked} more build on them" if stops and cost.blocked else ""
        out += ["", f"{title}: {count} of {len(cost.costs)} runs{build}"] if found else []
        for one in found:
            more = [f"most of it: {one.parts}"] if one.parts else []
            out += [f"  {len(one.runs)} {one.kind} ({one.names}): {one.need}"]
            out += [f"      {line}" for line in (*more, *one.fix.split("; "))]
    return out


def _numbers(cost: Cost | None, stuck: bool) -> str:
    if cost is None:
        return f"{'?':>4}  {'?':>7}  {'?':>8}  {'?':>8}  {'?':>9}  {'?':>7}"
    sign = "~" if cost.extrapolated else " "
    millions = (cost.tokens + cost.sampled) / 1e6
    spent = f"{'cannot start':>18}" if stuck else f"{sign}{duration(3600 * cost.hours):>8}  {cost.dollars:>7,.2f}"
    return f"{cost.gpus:>4}  {cost.memory_gib:>7.1f}  {cost.flops / 1e15:>8,.0f}  {millions:>8,.1f}  {spent}"


def duration(seconds: float) -> str:
    """`90 s`, `12 min` or `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _run_json(plan: StudyPlan, run: Run, cost: Cost | None, model: CostModel) -> dict[str, Any]:
    return {
        "fingerprint": run.fingerprint,
        "folder": run.folder.name,
        "stage": run.stage,
        "kind": label_of(run),
        "seed": run.seed,
        "done": run.done,
        "parents": [parent.fingerprint for parent in run.parents],
        "serves": plan.uses[run.fingerprint],  # cells
        "placed": placement(run, model),
        "cost": None if cost is None else vars(cost),
    }
