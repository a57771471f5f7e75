"""A planned study: its cells, each with the run that measures it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.study import StudyConfig
from tutelage.runs.run import Run, maker_of, steps_of


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
    steps: int | None = None  # of the model's whole training; None: no stage trains it, or its runs are not here


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
    absent: tuple[str, ...] = ()  # one line per data section or model not here; its runs' fingerprints are provisional
    distilled: tuple[Distilled, ...] = ()
    elsewhere: str = ""  # the device on which the runs were made, if this machine would use another


def cells(study: StudyPlan, runs: Path) -> list[Cell]:
    """All cells in the order of the file, with their folders and steps under `runs`."""
    found, steps = [], dict[Path, int | None]()
    for cell, run in study.points:
        made = maker_of(run, "model")
        if made is not None and made.folder not in steps:
            steps[made.folder] = steps_of(made, runs)
        own = steps[made.folder] if made is not None else None
        found.append(replace(cell, folder=runs / run.folder.name, steps=own))
    return found
