"""How far a study is, as text and as JSON."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tutelage.common import run_folder
from tutelage.common.locks import is_held
from tutelage.common.metrics_log import read_metrics, steps_and_eta
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.kinds import cost_of, label_of
from tutelage.runs.run import Run
from tutelage.runs.store import Store
from tutelage.study.plan import StudyPlan
from tutelage.study.plan_text import duration


@dataclass(frozen=True)
class RunState:
    """The state of one run: done, running, failed, waiting (for a failed one) or todo."""

    run: Run
    state: str
    done: int = 0  # optimizer steps, while it runs
    total: int = 0  # optimizer steps; 0: not known
    eta: float | None = None  # seconds left at its own speed
    error: str = ""  # one line


def study_status(plan: StudyPlan) -> list[RunState]:
    """The state of every run of the plan, parents before children. Looks at files only."""
    states: list[RunState] = []
    stopped: set[str] = set()
    for run in plan.runs:
        lock, error = run.folder / run_folder.LOCK, run.folder / run_folder.ERROR
        if run.done:
            states.append(RunState(run, "done"))
        elif lock.is_file() and is_held(lock):
            states.append(_running(run))
        elif error.is_file():
            stopped.add(run.fingerprint)
            lines = error.read_text().strip().splitlines() or ["no reason given"]
            states.append(RunState(run, "failed", error=lines[-1]))
        elif any(parent.fingerprint in stopped for parent in run.parents):
            stopped.add(run.fingerprint)
            states.append(RunState(run, "waiting"))
        else:
            states.append(RunState(run, "todo"))
    return states


def _running(run: Run) -> RunState:
    """The state of a run whose lock is held: steps done, steps in all, time left at the speed of the last 20 steps."""
    lines = read_metrics(run.folder / run_folder.METRICS)
    return RunState(run, "running", *steps_and_eta(lines, run.training.model_dump() if run.training else {}))


def status_lines(plan: StudyPlan, states: list[RunState]) -> list[str]:
    """The status as text: totals, then what runs, what failed and why, and what is left per kind."""
    count = Counter(state.state for state in states)
    out = [
        f"{plan.config.name}: {count['done']} of {len(states)} runs done, {count['running']} running, "
        f"{count['failed']} failed, {count['waiting']} waiting for failed ones, {count['todo']} to do"
    ]
    left = _time_left(states)
    if left is not None:
        out.append(f"about {duration(left)} of work left at the speed so far, one run at a time")
    for state in states:
        if state.state == "running":
            steps = f" step {state.done} of {state.total}" if state.total else ""
            eta = f", about {duration(state.eta)} left" if state.eta is not None else ""
            out.append(f"  running  {state.run.folder.name}{steps}{eta}")
    out += [f"  failed   {s.run.folder.name}: {s.error}" for s in states if s.state == "failed"]
    todo = Counter(label_of(state.run) for state in states if state.state in ("todo", "waiting"))
    if todo:
        out.append("  to do    " + ", ".join(f"{number} {kind}" for kind, number in todo.items()))
    return out


def status_json(plan: StudyPlan, states: list[RunState]) -> dict[str, Any]:
    """The status as one JSON object: counts per state, and every run."""
    runs = [
        {
            "folder": s.run.folder.name,
            "stage": s.run.stage,
            "kind": label_of(s.run),
            "state": s.state,
            "step": s.done or None,
            "steps": s.total or None,
            "eta_seconds": s.eta,
            "error": s.error or None,
        }
        for s in states
    ]
    return {"study": plan.config.name, "counts": dict(Counter(s.state for s in states)), "runs": runs}


def watch(plan: StudyPlan, every: float = 5.0, store: Store | None = None) -> None:
    """Show the status and renew it every `every` seconds, until nothing is left to do or the user stops it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), refresh_per_second=4) as live:
        while True:
            if store is not None:
                store.settle(plan.runs)
            states = study_status(plan)
            live.update(Text("\n".join(status_lines(plan, states))))
            if not any(state.state in ("running", "todo") for state in states):
                return
            time.sleep(every)


def _time_left(states: list[RunState]) -> float | None:
    """Seconds of work left: the cost model's, scaled by how long the finished runs took beside their costs."""
    model = CostModel(machine("H100"))
    spent, planned = 0.0, 0.0
    left = 0.0
    for state in states:
        cost = cost_of(state.run, model)
        hours = cost.hours if cost is not None else 0.0
        if state.state == "done":
            spent += run_folder.read_json(state.run.folder, run_folder.RESULT).get("seconds", 0.0)
            planned += 3600 * hours
        elif state.state == "running" and state.eta is not None:
            left += state.eta
        elif state.state != "failed":
            left += 3600 * hours
    return left * spent / planned if planned and left else None
