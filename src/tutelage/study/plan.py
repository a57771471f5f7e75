"""A planned study: its cells, each with the run that measures it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.study import StudyConfig
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Cell:
    """One cell of the study's map: a model, made by a method, measured on a task."""

    size: int | None  # the value of <size>; for `all`, the rows declared for the data set; None: the grid has no sizes
    student: str  # the teacher's name when the teacher itself is measured
    method: str
    teacher: str | None  # None when the method has none (SFT, base)
    seed: int
    task: str
    folder: Path  # the evaluation's; has examples.jsonl and result.json once it is done


@dataclass(frozen=True)
class Distilled:
    """A distilled model of a study, with the recipe that makes it: what can be forecast."""

    size: int | None  # these four as in `Cell`
    student: str
    method: str
    teacher: str | None
    recipe: RecipeConfig
    folder: Path  # where the recipe's relative paths start
    stage: str
    tasks: tuple[str, ...]  # the recipe's own tasks that the study asks it
    measured: bool  # on one of these already


@dataclass(frozen=True)
class StudyPlan:
    """A study file as cells and runs."""

    config: StudyConfig
    file: Path
    root: Path  # folder of all runs
    points: tuple[tuple[Cell, Run], ...]
    runs: tuple[Run, ...]  # each once, parents before children
    uses: dict[str, int] = field(default_factory=dict)  # fingerprint → cells that need the run
    absent: tuple[str, ...] = ()  # one line per data section not here; its runs' fingerprints are provisional
    distilled: tuple[Distilled, ...] = ()
    elsewhere: str = ""  # the device on which the runs were made, if this machine would use another


def cells(study: StudyPlan, runs: Path) -> list[Cell]:
    """All cells in the order of the file, with their folders under `runs`."""
    return [replace(cell, folder=runs / run.folder.name) for cell, run in study.points]
