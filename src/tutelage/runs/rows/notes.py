"""What a recipe's rows say of its scores: how many there are, which were not used, which repeat or contradict others of
their section, which are also in another, equal or nearly, and whose answers are. Rows that this process has not read
are not told of.

`tutelage init`, a run and its report say the same, by this file alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.errors import and_joined, listed
from tutelage.data.columns import BadRow, reasons
from tutelage.data.encode_rows import in_rows
from tutelage.data.sources import paths_of
from tutelage.recipe.load import data_names, made_by
from tutelage.recipe.sections import TrainingConfig
from tutelage.recipe.stages import EvaluateStage, TrainStage
from tutelage.runs.search import search_task

if TYPE_CHECKING:
    from tutelage.runs.planner import Planner
    from tutelage.runs.rows.seen import SeenRows

NEAR = 0.7  # estimated Jaccard similarity of character 5-grams, as of the filters of synthetic rows


@dataclass(frozen=True)
class SectionRows:
    """A data section that models are trained, chosen or scored on."""

    name: str
    source: str  # its files without their folders, or hub sets
    uses: str  # "trained on", "settings are chosen on", "scored on"
    rows: int
    notes: tuple[str, ...]  # rows that repeat or contradict others, by file and line, and what to do
    left_out: tuple[str, ...] = ()  # what of its file was not used or has gaps: counted, by file and line


@dataclass(frozen=True)
class _Uses:
    """What the names of a recipe are used for, in order."""

    trained: list[str]  # data sections
    validated: list[str]  # data sections that a loss is measured on meanwhile
    choosing: list[str]  # tasks that settings are chosen on
    scored: list[str]  # tasks


def notes_on_rows(planner: Planner) -> tuple[str, ...]:
    """All notes on rows that repeat or contradict others, or are also in another section."""
    return (*row_notes(section_rows(planner)), *shared_questions(planner))


def read_used_rows(planner: Planner) -> None:
    """Read what the recipe trains, measures and scores on, for the notes, but for what a stage makes. Raises
    TutelageError as `load_dataset`."""
    uses = _uses(planner)
    tasks = [planner.recipe.tasks[task].data for task in (*uses.choosing, *uses.scored)]
    for names, with_answers in (([*uses.trained, *uses.validated], True), (tasks, False)):
        for name in dict.fromkeys(name for name in names if made_by(planner.recipe.data[name].path) is None):
            planner.inputs.data(name, planner.recipe.data[name], planner.recipe_folder, with_answers)


def section_rows(planner: Planner, reports: Sequence[Mapping[str, Any]] = ()) -> list[SectionRows]:
    """Every section that is used, in the recipe's order. `reports`: what became of rows in training, by section, as
    data.json of runs has it."""
    recipe, uses = planner.recipe, _uses(planner)
    found = []
    for name, config in recipe.data.items():
        seen = _seen(planner, name, True) or _seen(planner, name, False)
        of_tasks = {words: {recipe.tasks[task].data for task in tasks} for words, tasks in (
            ("settings are chosen on", uses.choosing), ("scored on", uses.scored))}  # fmt: skip
        said = {"trained on": uses.trained, "loss is measured on while training": uses.validated, **of_tasks}
        used = ", ".join(words for words, names in said.items() if name in names)
        if seen is not None and used:
            trained = [line for report in reports if name in report for line in _not_trained_on(report[name], seen)]
            left_out = tuple(dict.fromkeys([*seen.left_out, *trained]))
            source = _source(paths_of(config))
            found.append(SectionRows(name, source, used, seen.count, tuple(seen.repeated), left_out))
    return found


def _not_trained_on(report: Mapping[str, Any], seen: SeenRows) -> Iterator[str]:
    """What a training run left out of a section's rows, or cut, beyond what no reader of it could use."""
    if report["cut"]:
        count = report["cut"]
        yield f"{count:,} row{'s are' if count > 1 else ' is'} cut at the length limit of training"
    if too_long := report["too_long"]:
        are = "s are" if len(too_long) > 1 else " is"
        yield f"{len(too_long):,} row{are} too long to train on and left out: {listed(too_long)}"
    refused = [BadRow(*row) for row in report["bad_rows"] if row[0] not in seen.bad]
    if refused:
        yield f"{len(refused):,} row{'s are' if len(refused) > 1 else ' is'} left out: {reasons(refused)}"
    carried = [in_rows(what, rows) for what, rows in report.get("left_out", {}).items()]
    if carried:
        yield f"left out or changed: {'; '.join(carried)}"


def _source(paths: list[str]) -> str:
    """Paths without their folders; the name of a hub set has one slash and no ending."""
    return ", ".join(path if path.count("/") == 1 and not Path(path).suffix else Path(path).name for path in paths)


def row_notes(sections: Sequence[SectionRows]) -> tuple[str, ...]:
    """Notes about rows that repeat or contradict others of their section, for all sections."""
    return tuple(f"data.{one.name}: {note}" for one in sections for note in one.notes)


def left_out_notes(sections: Sequence[SectionRows]) -> tuple[str, ...]:
    """Notes about what was not used, each once with all sections of which it is true."""
    of: dict[str, list[str]] = {}
    for one in sections:
        for note in one.left_out:
            of.setdefault(note, []).append(f"data.{one.name}")
    return tuple(f"{and_joined(names)}: {note}" for note, names in of.items())


def shared_questions(planner: Planner) -> list[str]:
    """Notes about questions that are in two sections that should be apart: in a task and in what models are trained on,
    settings are chosen on or a loss is measured on; and in the last of these and what models are trained on."""
    recipe, uses = planner.recipe, _uses(planner)
    trained = {f"data.{name}, on which models are trained": _seen(planner, name, True) for name in uses.trained}
    measured = {name: _seen(planner, name, True) for name in uses.validated if name not in uses.trained}
    notes = []
    for task in dict.fromkeys([*uses.scored, *uses.choosing]):
        asked = _seen(planner, recipe.tasks[task].data, False)
        for what, other in (trained | _chosen_on(planner, uses, task)).items():
            wrong = "the reference or the training row" if what in trained else "one of the two references"
            so = "scores on {them} look better than they are"
            notes += shared_notes(f"task `{task}`", asked, what, other, so, wrong=wrong)
            notes += known_answers(f"task `{task}`", asked, what, other) if what in trained else []
        for name, other in measured.items():
            if name != recipe.tasks[task].data:
                what = f"data.{name}, on which the loss is measured while training"
                notes += shared_notes(f"task `{task}`", asked, what, other, "keep one of each", near=False)
    for name, asked in measured.items():
        for what, other in trained.items():
            notes += shared_notes(f"data.{name}", asked, what, other, "its loss looks better than it is")
    return notes


def other_file_notes(planner: Planner, overrides: Sequence[str]) -> list[str]:
    """Notes about sections that read another file by an override, of which the recipe's `size` or `skip` leaves rows
    out."""
    given, notes = {override.partition("=")[0] for override in overrides}, []
    for name, config in planner.recipe.data.items():
        seen = _seen(planner, name, True) or _seen(planner, name, False)
        keys = {"size": "null"} if config.size else {}
        keys |= {"skip": "0"} if config.skip else {}
        kept = [f"data.{name}.{key}={to}" for key, to in keys.items() if f"data.{name}.{key}" not in given]
        others = [paths_of(other) for key, other in planner.recipe.data.items() if key != name]  # may take the rest
        if seen is None or f"data.{name}.path" not in given or paths_of(config) in others:
            continue
        if kept and seen.count < seen.usable:
            which = and_joined([f"`{one.partition('=')[0]}`" for one in kept])
            notes.append(
                f"{seen.count:,} of {seen.usable:,} rows of {_source(paths_of(config))} are used: {which} "
                f"{'are those' if len(kept) > 1 else 'is that'} of the recipe; add {' '.join(kept)} for all"
            )
    return notes


def known_rows(planner: Planner) -> dict[str, frozenset[str]]:
    """By task, the ids of the rows whose question is also, or nearly, in what models are trained on or settings are
    chosen on; tasks without such rows are left out."""
    uses, found = _uses(planner), dict[str, frozenset[str]]()
    for task in dict.fromkeys(uses.scored):
        asked = _seen(planner, planner.recipe.tasks[task].data, False)
        others = [_seen(planner, name, True) for name in uses.trained] + [*_chosen_on(planner, uses, task).values()]
        if asked is not None:
            places = {place for other in others if other for place in (*asked.shared(other), *_nearly(asked, other))}
            found |= {task: frozenset(map(asked.id_of, places))} if places else {}
    return found


def _chosen_on(planner: Planner, uses: _Uses, task: str) -> dict[str, SeenRows | None]:
    """The rows of the tasks that settings are chosen on, for a task that is none of these."""
    return {
        f"task `{name}`, on which settings are chosen": _seen(planner, planner.recipe.tasks[name].data, False)
        for name in uses.choosing
        if task not in uses.choosing
    }


def shared_notes(
    who: str,
    asked: SeenRows | None,
    what: str,
    other: SeenRows | None,
    so: str,
    near: bool = True,
    wrong: str = "one of the two rows",
) -> list[str]:
    """Notes about the questions of `who` that are also in `what`, with the same answer or another, and about those that
    are nearly. `so`: what follows from it. `wrong`: of two answers, what is, in words."""
    if asked is None or other is None:
        return []
    shared = asked.shared(other).values()
    otherwise = f"with another answer: {wrong} is wrong, unless both answers are right"
    kinds = (
        ("is also in", "are also in", [text for text, another in shared if not another], f": {so}"),
        ("is also in", "are also in", [text for text, another in shared if another], f", {otherwise}"),
        ("is nearly one of", "are nearly some of", [*_nearly(asked, other).values()] if near else [],
         re.sub(r"\blooks?\b", "may look", f": {so}")),
    )  # fmt: skip
    notes = []
    for is_, are, found, then in kinds:
        one = len(found) == 1
        if found:
            of = f"{len(found):,} of the {len(asked.questions):,} questions"
            of = "the only question" if len(asked.questions) == 1 else of
            then = then.format(them="it" if one else "them")
            notes.append(f"{of} of {who} {is_ if one else are} {what}{then} ({listed(found)})")
    return notes


def known_answers(who: str, asked: SeenRows | None, what: str, other: SeenRows | None) -> list[str]:
    """A note about the questions of `who` whose short answer is also the answer to another question in `what`."""
    found = asked.answered_alike(other) if asked is not None and other is not None else []
    if asked is None or not found:
        return []
    has, it = ("has", "it") if len(found) == 1 else ("have", "them")
    of = f"{len(found):,} of the {len(asked.questions):,} questions of {who}"
    so = f"a high score on {it} does not show that a model knows what is new"
    return [f"{of} {has} the answer of another question in {what}: {so} ({listed(found)})"]


def _nearly(asked: SeenRows, other: SeenRows) -> dict[int, str]:
    """The rows whose question is nearly one of the other's and equal to none, by place, each with that one; of the
    first rows of both."""
    if other not in asked.nearly:
        from tutelage.synthesis.near_duplicates import NearDuplicates
        from tutelage.synthesis.words import words

        index, equal = NearDuplicates(NEAR), set(other.questions)
        for _, source, text in other.asked:
            index.add("other", source, words(text))
        found = ((place, source, index.find(words(text), ["other"])) for place, source, text in asked.asked
                 if asked.questions[place] not in equal)  # fmt: skip
        asked.nearly[other] = {place: f"{source} asks nearly what {near[1]} asks" for place, source, near in found
                               if near}  # fmt: skip
    return asked.nearly[other]


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
