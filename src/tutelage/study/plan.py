"""A planned study: its cells, each with the run that measures it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.recipe.study import StudyConfig
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Cell:
    """One number of the map: a model, made by a method, on a task."""

    size: int | None  # what <size> was; for `all` the rows that are declared for the set; None: the grid has no sizes
    student: str  # the teacher's name where the teacher itself is measured
    method: str
    teacher: str | None  # None where the method has none (SFT, base), however many the grid has
    seed: int
    task: str
    folder: Path  # the evaluation's, with examples.jsonl and result.json once it is done


@dataclass(frozen=True)
class StudyPlan:
    config: StudyConfig
    file: Path
    root: Path
    points: tuple[tuple[Cell, Run], ...]
    runs: tuple[Run, ...]  # each once, parents before children
    uses: dict[str, int] = field(default_factory=dict)  # fingerprint → cells that need the run
    absent: tuple[str, ...] = ()  # data that are not here: fingerprints of what uses them are provisional
    elsewhere: str = ""  # the device on which the runs were made, where this machine would use another


def cells(study: StudyPlan, runs: Path) -> list[Cell]:
    """All cells in the order of the file, with their folders in `runs`."""
    return [replace(cell, folder=runs / run.folder.name) for cell, run in study.points]


def kind_of(run: Run) -> str:
    """A run's kind for people: teacher SFT, student SFT, distill, evaluation, …"""
    if run.kind == "sft":
        return "teacher SFT" if run.spec.student == "teacher" else "student SFT"
    return "evaluation" if run.kind in ("evaluate", "benchmark", "held_out") else run.kind
