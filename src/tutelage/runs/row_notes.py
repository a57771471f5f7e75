"""What a recipe's rows say of its scores: how many there are, which repeat or contradict others of their section, and
which test rows are trained on, too. Rows that this process has not read are not told of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.data.columns import listed
from tutelage.data.sources import paths_of
from tutelage.recipe.load import data_names
from tutelage.recipe.sections import TrainingConfig
from tutelage.recipe.stages import EvaluateStage, TrainStage
from tutelage.runs.search import search_task

if TYPE_CHECKING:
    from tutelage.runs.fingerprints import SeenRows
    from tutelage.runs.planner import Planner


@dataclass(frozen=True)
class SectionRows:
    """A data section that models are trained, chosen or scored on."""

    name: str
    source: str  # its files without their folders, or hub sets
    uses: str  # "trained on", "settings are chosen on", "scored on"
    rows: int
    notes: tuple[str, ...]  # rows that repeat or contradict others, by file and line, and what to do


@dataclass(frozen=True)
class _Uses:
    """What the names of a recipe are used for, in order."""

    trained: list[str]  # data sections
    validated: list[str]  # data sections that a loss is measured on meanwhile
    choosing: list[str]  # tasks that settings are chosen on
    scored: list[str]  # tasks


def section_rows(planner: Planner) -> list[SectionRows]:
    """Every section that is used, in the recipe's order."""
    recipe, uses = planner.recipe, _uses(planner)
    found = []
    for name, config in recipe.data.items():
        seen = _seen(planner, name, True) or _seen(planner, name, False)
        of_tasks = {words: {recipe.tasks[task].data for task in tasks} for words, tasks in (
            ("settings are chosen on", uses.choosing), ("scored on", uses.scored))}  # fmt: skip
        said = {"trained on": uses.trained, "loss is measured on while training": uses.validated, **of_tasks}
        used = ", ".join(words for words, names in said.items() if name in names)
        if seen is not None and used:
            found.append(SectionRows(name, _source(paths_of(config)), used, seen.count, tuple(seen.repeated)))
    return found


def _source(paths: list[str]) -> str:
    """Paths without their folders; the name of a hub set has one slash and no ending."""
    return ", ".join(path if path.count("/") == 1 and not Path(path).suffix else Path(path).name for path in paths)


def row_notes(sections: Sequence[SectionRows]) -> tuple[str, ...]:
    """Notes about rows that repeat or contradict others of their section, for all sections."""
    return tuple(f"data.{one.name}: {note}" for one in sections for note in one.notes)


def shared_questions(planner: Planner) -> list[str]:
    """Notes about tasks with questions that are also in data that a stage is trained on, or in a task that settings are
    chosen on."""
    recipe, uses = planner.recipe, _uses(planner)
    notes = []
    for task in dict.fromkeys([*uses.scored, *uses.choosing]):
        asked = _seen(planner, recipe.tasks[task].data, False)
        beside = [(f"data.{name}, on which models are trained", _seen(planner, name, True)) for name in uses.trained]
        if task not in uses.choosing:
            beside += [
                (f"task `{name}`, on which settings are chosen", _seen(planner, recipe.tasks[name].data, False))
                for name in uses.choosing
            ]
        for what, other in beside:
            both = asked.shared(other) if asked is not None and other is not None else []
            if both and asked is not None:
                notes.append(
                    f"{len(both)} of the {len(asked.questions)} questions of task `{task}` are also in {what}: scores "
                    f"on them look better than they are ({listed(both)})"
                )
    return notes


def _uses(planner: Planner) -> _Uses:
    recipe = planner.recipe
    stages = [stage for stage in recipe.stages if isinstance(stage, TrainStage)]
    trained = [name for stage in stages for name in data_names(stage, TrainingConfig())]
    validated = [name for stage in stages if (name := recipe.training_of(stage).validation)]
    searched = [stage.name for stage in stages if recipe.search and stage.search]
    return _Uses(
        list(dict.fromkeys(name for name in trained if name in recipe.data)),
        validated,
        list(dict.fromkeys(search_task(planner, name) for name in searched)),
        list(dict.fromkeys(t for stage in recipe.stages if isinstance(stage, EvaluateStage) for t in stage.tasks)),
    )


def _seen(planner: Planner, name: str, with_answers: bool) -> SeenRows | None:
    return planner.inputs.seen(planner.recipe.data[name], planner.recipe_folder, with_answers)
