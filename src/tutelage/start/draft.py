"""From what was seen to a recipe that was checked: proposed, made to fit into memory, read back, planned."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.time_left import about
from tutelage.evaluation.statistics import FEW_EXAMPLES
from tutelage.recipe.load import parse_yaml, recipe_from
from tutelage.recipe.recipe import RecipeConfig
from tutelage.runs.cost.cpu import BUSY
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems
from tutelage.runs.preflight.machine import Here, free_disk
from tutelage.runs.rows.notes import notes_on_rows, read_used_rows
from tutelage.runs.run import Run
from tutelage.start.estimate import EVALUATIONS, Estimate, estimate, runs_of
from tutelage.start.look import Look, measure
from tutelage.start.models import Cut, Pair
from tutelage.start.propose import CPU_SAVINGS, HEALING_FILE, SAVINGS, Proposal, propose, slices
from tutelage.start.write import SAYS, recipe_text

FEW_ROWS = 200  # below which a comparison is hardly possible


@dataclass(frozen=True)
class Draft:
    """A recipe, not yet written, and what to say of it."""

    text: str
    fits: bool
    seen: tuple[str, ...]  # of models and lengths
    warnings: tuple[str, ...]  # what may spoil its results, or keep it from starting
    stages: tuple[str, ...]  # what will run: a line each, with its time
    needs: str  # time, memory and disk


def draft(
    name: str, looks: Mapping[str, Look], out: Path, pair: Pair, here: Here, command: str, runs: Path, force: bool
) -> Draft:
    """The recipe for `out` with these models. `command`: what made it. `runs`: where its runs will be.

    A student that is cut and healed needs rows to heal on; they are written beside the recipe. Raises TutelageError
    where no recipe is possible.
    """
    lengths = measure(looks["train"], pair.template)
    paths = {role: _as_written(look.paths, out) for role, look in looks.items()}
    proposal = propose(name, looks, paths, lengths, pair)
    head = f"Made by `{command}`; docs/recipe.md has every key, docs/glossary.md the words. Next: tutelage run {out}"
    with _healing_rows(pair.student, out.with_name(HEALING_FILE), force):
        fitting = _fitting(proposal, head, out, pair, here, runs)
        problems = find_problems(fitting.runs, runs, data=False)
        notes = _row_notes(fitting.config, out, runs, here)
        warnings = [*_few(looks), *notes, *(problem.text for problem in problems)]
    stops = any(misfit.stops for misfit in fitting.found.misfits)
    seen, needs = (*pair.lines, lengths.line(), *_shows(looks)), _needs(fitting.found, here, runs)
    return Draft(fitting.text, not stops, seen, tuple(warnings), tuple(_stages(fitting)), needs)


def _few(looks: Mapping[str, Look]) -> Iterator[str]:
    """That so few rows will hardly tell one arm from another."""
    rows = len(looks["train"].rows)
    if rows < FEW_ROWS:
        yield (
            f"{rows} rows are few: students learn little from them, and scores have wide intervals; 300 are a beginning"
        )
    asked = len(looks["test"].rows) if "test" in looks else FEW_EXAMPLES  # of a slice the line above speaks
    if asked < FEW_EXAMPLES:
        yield (
            f"{asked} test row{'s' * (asked > 1)} can hardly tell models apart: give at least {FEW_EXAMPLES}, better "
            f"{4 * FEW_EXAMPLES}"
        )


def _shows(looks: Mapping[str, Look]) -> Iterator[str]:
    """What differences the test rows can show; not of a file of so few that `_few` warns of it."""
    given = "test" in looks
    rows = len(looks["test"].rows) if given else slices(len(looks["train"].rows), ["test"])["test"]
    if not given or rows >= FEW_EXAMPLES:
        yield (
            f"  test: {rows:,} rows{'' if given else ' of these'}, which show differences of about "
            f"{shown_points(rows)} points and more (a rule of thumb)"
        )


def shown_points(rows: int) -> int:
    """The difference in points beyond which two models' scores on as many test rows differ at the 5 % level, if both
    are right on about half of the rows and their answers are half correlated."""
    right, correlation = 0.5, 0.5
    variance = 2 * right * (1 - right) * (1 - correlation)  # of the difference on one row
    return max(1, round(100 * 1.96 * math.sqrt(variance / rows)))


@dataclass(frozen=True)
class _Fitting:
    """A recipe as text and as read back from it, its runs, and what they need."""

    text: str
    config: RecipeConfig
    runs: list[Run]
    found: Estimate


def _fitting(proposal: Proposal, head: str, out: Path, pair: Pair, here: Here, runs: Path) -> _Fitting:
    """The recipe with the first of the savings with which all runs fit, else with the last."""
    made = None
    for saving in SAVINGS if here.device == "cuda" else CPU_SAVINGS:
        content = {**proposal.content, "training": {**proposal.content["training"], **saving}}
        text = recipe_text(content, proposal.reasons, head)
        config = recipe_from(parse_yaml(text), out)
        planned = runs_of(config, out.resolve().parent, runs, here.device)
        made = _Fitting(text, config, planned, estimate(planned, here, pair.template))
        if not made.found.misfits:
            break
    assert made is not None
    return made


def _row_notes(config: RecipeConfig, out: Path, runs: Path, here: Here) -> tuple[str, ...]:
    """What a run of this recipe will say of its rows: those that repeat others, and those that are also in other
    sections."""
    planner = Planner(config, out.resolve().parent, runs, auto_device=here.device)
    read_used_rows(planner)
    return notes_on_rows(planner)


def _stages(fitting: _Fitting) -> Iterator[str]:
    """What each stage does, and how long it takes here."""
    names = {stage.name: EVALUATIONS if stage.kind == "evaluate" else stage.name for stage in fitting.config.stages}
    hours = fitting.found.stages
    quiet = {name: 3600 * hours[key] / fitting.found.busy for name, key in names.items() if key in hours}
    times = {name: about(seconds).removeprefix("about ") for name, seconds in quiet.items()}
    where = f"here{' on quiet cores' * (fitting.found.busy > BUSY)}"
    yield f"what will run{f', and for how long {where}' if times else ''}:"
    for name in names:
        time = f"{times.get(name, ''):<{max(map(len, times.values()))}}  " if times else ""  # equal ones run once
        yield f"  {name:<{max(map(len, names))}}  {time}{SAYS.get(name, '')}"


def _needs(found: Estimate, here: Here, runs: Path) -> str:
    free = f"{free_disk(runs) / 2**30:,.0f}"
    if found.hours is None or found.gib is None or here.machine is None:
        return f"time and memory are not known: the size of a model is not; {free} GiB of disk are free"
    long = f"about {_long(found.hours / found.busy)} here"
    if found.busy > BUSY:
        long += f" on quiet cores ({_long(found.hours)} while other programs keep them as busy as now)"
    memory = f"{found.gib:,.1f} GiB of memory at most (of {here.machine.memory:,.0f})"
    return f"{long}, {memory}, {found.disk:,.1f} GiB of disk at most ({free} are free)"


def _long(hours: float) -> str:
    minutes = max(1, round(60 * hours))
    return f"{minutes} minute{'s' * (minutes > 1)}" if minutes < 90 else f"{hours:.1f} hours"


def _as_written(paths: Sequence[str], out: Path) -> str | list[str]:
    """The paths as a recipe in `out` names them: relative where the file lies in its folder or below."""
    folder, found = out.resolve().parent, []
    for path in paths:
        local = Path(os.path.abspath(Path(path).expanduser()))
        if not local.exists() and "*" not in path:  # a hub set
            found.append(path)
        else:
            inside = local.is_relative_to(folder)
            found.append(str(local.relative_to(folder)) if inside and local != folder else str(local))
    return found[0] if len(found) == 1 else found


@contextmanager
def _healing_rows(student: str | Cut, file: Path, force: bool) -> Iterator[None]:
    """Write the rows that heal a cut student; they stay unless the recipe comes to nothing."""
    if not isinstance(student, Cut):
        yield
        return
    if file.exists() and not force and file.read_text(encoding="utf-8", errors="replace") != student.rows:
        raise TutelageError(f"{file} exists with other rows: move it away, or --force to replace it")
    had = file.exists()
    write_atomically(file, student.rows)
    try:
        yield
    except BaseException:
        if not had:
            file.unlink(missing_ok=True)
        raise
