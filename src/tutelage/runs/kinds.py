"""The kinds of run: what each one does, what it costs, and what a plan calls it.

To add a kind of stage: its config in `recipe/stages.py`, its work in `runs/stages/<kind>.py`, one line here, and in
`planner.py` what it reads. The work is imported only when a run is done: plans need neither models nor trainers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.cost.facts import Shape
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Kind:
    """What the project knows of a kind of run."""

    do: Callable[[Run], dict[str, Any]]  # works in the run's folder; returns the content of result.json
    cost: Callable[[CostModel, Run, dict[str, Shape]], Cost]  # from the shapes of its models, by role
    label: str  # in plans and status


def _train(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.train import train

    return train(run)


def _write_teacher_answers(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.teacher_answers import write_teacher_answers

    return write_teacher_answers(run)


def _prune(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.prune import prune

    return prune(run)


def _synthesize(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.synthesize import synthesize

    return synthesize(run)


def _evaluate(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.evaluate import evaluate

    return evaluate(run)


def _measure_benchmark(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.benchmark import measure_benchmark

    return measure_benchmark(run)


def _measure_held_out(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.held_out import measure_held_out

    return measure_held_out(run)


def _measure_signals(run: Run) -> dict[str, Any]:
    from tutelage.runs.stages.signals import measure_signals

    return measure_signals(run)


KINDS: dict[str, Kind] = {
    "sft": Kind(_train, CostModel.training, "student SFT"),  # "teacher SFT" where it trains the teacher
    "distill": Kind(_train, CostModel.training, "distill"),
    "method": Kind(_train, CostModel.training, "method"),
    "seqkd": Kind(_train, CostModel.training, "seqkd"),
    "answers": Kind(_write_teacher_answers, CostModel.answers, "answers"),  # the teacher's samples for a seqkd stage
    "prune": Kind(_prune, CostModel.pruning, "prune"),
    "synthesize": Kind(_synthesize, CostModel.synthesis, "synthesize"),
    "evaluate": Kind(_evaluate, CostModel.evaluation, "evaluation"),  # a task of the recipe
    "benchmark": Kind(_measure_benchmark, CostModel.benchmark, "evaluation"),
    "held_out": Kind(_measure_held_out, CostModel.held_out, "evaluation"),  # loss on held-out rows
    "signals": Kind(_measure_signals, CostModel.signals, "evaluation"),  # what a teacher knows that a student does not
}


def label_of(run: Run) -> str:
    """What plans and status call the run: teacher SFT, student SFT, distill, evaluation, …"""
    return "teacher SFT" if run.kind == "sft" and run.config.student == "teacher" else KINDS[run.kind].label


def cost_of(run: Run, model: CostModel) -> Cost | None:
    """What the run needs on the cost model's machine; None when the shape of one of its models is not known."""
    shapes = {role: model.shape(run, role) for role in run.models}
    known = {role: shape for role, shape in shapes.items() if shape is not None}
    return KINDS[run.kind].cost(model, run, known) if len(known) == len(shapes) else None


def hours_of(run: Run, model: CostModel) -> float:
    """Hours that the run takes on the cost model's machine; 0 when its cost is not known."""
    cost = cost_of(run, model)
    return 0.0 if cost is None else cost.hours
