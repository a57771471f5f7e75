"""Which model to use by the evidence, and what to do next: what the first screen says after its verdicts.

The simplest trained student is the one to beat: plain fine-tuning before what a teacher taught, then the one with the
fewest steps. Another is named only where it was shown to score higher; the p-values of these comparisons are corrected
with those of the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from tutelage.common.run_folder import MODEL, WHERE, models_folder
from tutelage.evaluation.statistics import SIGNIFICANT, Paired
from tutelage.report.comparisons import compare
from tutelage.report.labels import TRAINED
from tutelage.report.numbers import interval_text, p_text
from tutelage.report.recipe.tables import TableRow, TaskTable
from tutelage.report.recipe.verdicts import corrected_beside, deciding, distance, is_saturated, judged_rows, named

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults, ResultRow, TrainedModel

SPOKEN_OF = 3  # other models whose distance is given
POWER = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)  # standard errors of what four of five cases show


@dataclass(frozen=True)
class Choice:
    """The model to use. What is code stands between backticks."""

    stage: str
    use: str  # what to use
    why: str  # what the comparisons show
    next: str  # what the comparisons ask for; may be empty
    commands: tuple[tuple[str, str], ...]  # what one does with the model, and the command


@dataclass(frozen=True)
class _Compared:
    """A student minus the simplest one, on one task."""

    table: TaskTable
    row: TableRow
    versus: Paired
    p_value: float  # corrected

    @property
    def sign(self) -> int:
        """1: shown to be better; -1: shown to be worse; 0: no difference was shown."""
        return 0 if not self.p_value < SIGNIFICANT else 1 if self.versus.difference > 0 else -1

    @property
    def is_said(self) -> bool:
        """Whether a verdict says it."""
        value = self.row.value(self.table.headline)
        judged = {row.stage for row in judged_rows(self.table)}
        return value is not None and self.versus is value.versus and self.row.stage in judged


def choose(results: RecipeResults, tables: Sequence[TaskTable]) -> Choice | None:
    """The model to use, of the students that have scores; None where no trained one has any."""
    tables, _ = deciding(results, tables)
    scored = {row.stage for table in tables for row in table.rows if row.runs}
    students = [row for row in results.rows if row.stage in scored and not row.of_teacher and row.kind != "baseline"]
    trained = [row for row in students if row.kind in TRAINED]
    if not trained:
        return None
    simplest = min(trained, key=_effort)
    compared, count = _compare(results, tables, simplest, students)
    signs = {row.stage: {one.sign for one in compared if one.row.stage == row.stage} for row in students}
    better = [row for row in students if 1 in signs[row.stage] and -1 not in signs[row.stage]]
    chosen = max(better, key=lambda row: _gain(compared, row), default=simplest)
    place = _place(results, chosen.stage)
    what = f"`{place[0]}`{place[1]}" if place else named(chosen.label)
    mixed = any(found >= {1, -1} for found in signs.values())
    why = " ".join([_why(chosen, simplest, trained, mixed), *_distances(compared, count, chosen, simplest)])
    commands = () if place is None else tuple(_commands(results, place[0], chosen))
    return Choice(chosen.stage, f"Use {what}.", why, _next(results, tables, compared, chosen), commands)


def _effort(row: ResultRow) -> tuple[bool, float]:
    """What a student took: a teacher or none, then steps; of equal ones the first in the table is taken."""
    return row.kind != "sft", math.inf if row.steps is None else row.steps


def _compare(
    results: RecipeResults, tables: Sequence[TaskTable], simplest: ResultRow, students: Sequence[ResultRow]
) -> tuple[list[_Compared], int]:
    """Every other student against the simplest one, taught ones first; for how many tests their p is corrected."""
    ordered = sorted((row for row in students if row is not simplest), key=lambda row: row.kind == "sft")
    found: list[tuple[TaskTable, TableRow, Paired]] = []
    for student, table in ((student, table) for student in ordered for table in tables):
        rows = {row.stage: row for row in table.rows if row.runs}
        row, base = rows.get(student.stage), rows.get(simplest.stage)
        if row is None or base is None:
            continue
        one, other = row.value(table.headline), base.value(table.headline)
        assert one is not None  # both rows have runs
        assert other is not None
        versus = one.versus if base.is_reference and one.versus is not None else compare(one, other)
        if not math.isnan(versus.p_value):
            found.append((table, row, versus))
    keys = [(table.task, frozenset({row.stage, simplest.stage})) for table, row, _ in found]
    tests = {key: versus.p_value for key, (*_, versus) in zip(keys, found, strict=True)}
    known = corrected_beside(results, tables, tests)
    return [_Compared(*one, known[key]) for key, one in zip(keys, found, strict=True)], len(known)


def _gain(compared: Sequence[_Compared], row: ResultRow) -> tuple[int, float]:
    """On how many tasks a student was shown to be better, and by how much it is on average."""
    own = [one for one in compared if one.row.stage == row.stage]
    return sum(one.sign for one in own), sum(one.versus.difference for one in own) / len(own)


def _why(chosen: ResultRow, simplest: ResultRow, trained: Sequence[ResultRow], mixed: bool) -> str:
    """`mixed`: a student is better on one task and worse on another."""
    if len(trained) == 1 and chosen is simplest:
        return f"{chosen.label} is the only trained student with scores."
    how = ["no teacher"] if simplest.kind == "sft" and any(row.kind != "sft" for row in trained) else []
    how += [] if simplest.steps is None else [f"{simplest.steps:,} steps"]
    one_of = f"the simplest of {len(trained)} trained students" if len(trained) > 1 else "the trained student"
    what = one_of + (f" ({', '.join(how)})" if how else "")
    if chosen is simplest:
        at_once = " without being worse on another task" if mixed else ""
        return f"{chosen.label} is {what}, and none was shown to be better{at_once}."
    untrained = ", without any training," if chosen.kind == "model" else ""
    return f"{chosen.label}{untrained} was shown to be better than {named(simplest.label)}, {what}."


def _distances(compared: Sequence[_Compared], count: int, chosen: ResultRow, simplest: ResultRow) -> Iterator[str]:
    """A sentence for each of the first other students on how far it is from the simplest one, where no verdict says so;
    short ones for the rest. `count`: for how many tests p is corrected."""
    several = len({one.table.task for one in compared}) > 1
    rows: dict[str, list[_Compared]] = {}
    for one in sorted((one for one in compared if not one.is_said), key=lambda one: one.row.stage != chosen.stage):
        rows.setdefault(one.row.stage, []).append(one)
    corrected = f" after correction for {count} comparisons" if count > 1 else ""
    for own in list(rows.values())[:SPOKEN_OF]:
        parts = []
        for one in own:
            end = {0: "no difference was shown", 1: "it is better", -1: "it is worse"}[one.sign]
            where = f" on {one.table.task}" if several else ""
            evidence = f"95 % interval {interval_text(one.versus)}, {p_text(one.p_value)}{corrected}"
            parts.append(f"{distance(one.versus, named(simplest.label))}{where} ({evidence}): {end}")
            corrected = ""
        yield f"{own[0].row.label} is {'; '.join(parts)}."
    rest = [(own[0].row.label, {one.sign for one in own}) for own in list(rows.values())[SPOKEN_OF:]]
    yield from (f"{named(label)} is worse." for label, signs in rest if -1 in signs)
    if same := sum(signs == {0} for _, signs in rest):
        yield f"No difference to {same} more was shown."


def _next(results: RecipeResults, tables: Sequence[TaskTable], compared: Sequence[_Compared], chosen: ResultRow) -> str:
    """What the comparisons with taught students ask for; empty without any, or where the tests are too easy to tell."""
    taught = [one for one in compared if one.row.kind not in ("sft", "model")]
    again = "`'seeds=[0,1,2]'` added to the command"
    if not taught or all(is_saturated(table) for table in tables):
        return ""
    if chosen.kind not in ("sft", "model"):
        if len(results.seeds) == 1:
            return f"Before you rely on the difference, see whether other training runs show it, too: {again}."
        return "More rows may add to it: `tutelage forecast` says so from small parts of them."
    still = [one for one in taught if one.sign == 0]
    if not still:
        return (
            "Distilling may do better with a stronger teacher or more rows: `tutelage forecast` says so from small "
            "parts of the rows, before the rest is paid for."
        )
    least = min(still, key=lambda one: one.versus.stderr)
    size = POWER * least.versus.stderr
    told = f" (these {least.versus.examples:,} would show one of {size:.1f} points four times in five)" if size else ""
    runs = f" and other training runs ({again})" if len(results.seeds) == 1 else " and more seeds"
    return f"To show a difference that may be there: more test rows{told}{runs}."


def _commands(results: RecipeResults, place: str, chosen: ResultRow) -> Iterator[tuple[str, str]]:
    yield "talk to it", f"tutelage chat {place}"
    taught = [model for model in results.models if model.run.kind != "sft"]
    others = [*taught, *(model for model in results.models if model.stage == results.reference)]
    for model in others:
        if model.stage != chosen.stage and (other := _place(results, model.stage)):
            yield f"talk to {named(model.label)} beside it", f"tutelage chat {place} {other[0]}"
            break
    yield "measure it on a benchmark of the hub", f"tutelage evaluate --model {place} --tasks ifeval"
    yield "take it to llama.cpp and others", f"tutelage export {place} --gguf"


def _place(results: RecipeResults, stage: str) -> tuple[str, str] | None:
    """The folder of a stage's first model, that in `models` if it leads there, and words on its seed; None while there
    is none."""
    made = [model for model in results.models if model.stage == stage and model.run.done]
    if not made:
        return None
    first, count = made[0], len(made)
    folder = models_folder(first.run.folder.parent) / first.name_in(results.name)
    place = folder if _leads(folder, first) else first.run.folder
    return str(place), f" (one of {count} seeds)" if count > 1 else ""


def _leads(folder: Path, model: TrainedModel) -> bool:
    """Whether a folder in `models` has links to this model, or says where it is."""
    own = model.run.folder / MODEL
    if (folder / WHERE).is_file():
        return (folder / (folder / WHERE).read_text(encoding="utf-8").strip()).resolve() == own.resolve()
    return (folder / "config.json").resolve() == (own / "config.json").resolve()
