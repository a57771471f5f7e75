"""What would let distilling do better, and how many test rows would tell two models apart, in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from tutelage.common.errors import and_joined, first_of
from tutelage.evaluation.statistics import SIGNIFICANT, Paired
from tutelage.report.recipe.tables import TableRow, TableValue, TaskTable
from tutelage.report.recipe.to_teacher import ToTeacher, to_teacher
from tutelage.report.recipe.verdicts import SATURATED, corrected_beside, key_of, named, weak_teachers

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults, ResultRow

POWER = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)  # standard errors of what four of five cases show
MOST_TIMES = 20  # as many test rows as there are: a difference that needs more is not worth them


def teacher_advice(
    results: RecipeResults, tables: Sequence[TaskTable], taught: Sequence[ResultRow], below: Mapping[str, str]
) -> Iterator[str]:
    """What would let the students `taught`, which were shown to be worse than one without a teacher, do better; nothing
    where a verdict says it. `below`: by stage, how far those are below their own teacher that were shown to be.

    First comes what says that training went wrong, as the teacher is then not what was short. Another one is named only
    where this one may be what was short: not one that scores as much as the metric can, nor one that was shown to score
    more than the reference."""
    beside_teacher = [(row, one) for row in taught if (one := to_teacher(row)) is not None]
    if astray := [(row, one) for row, one in beside_teacher if one.is_no_nearer]:
        yield _no_nearer(astray, below)
        return
    if weak_teachers(results, tables):
        return
    known = corrected_beside(results, tables, {})
    teachers, clear, full = {row.teacher for row in taught}, False, False
    for table in tables:
        reference, teacher = table.reference, _best(table, teachers)
        value = reference.value(table.headline) if reference else None
        if reference is None or value is None or teacher is None:
            continue
        row, best = teacher
        full = full or best.value >= SATURATED
        if best.value <= value.value and not all(row.stage in below for row in taught):
            what = f"the teacher scores {best.value:.1f} and {named(reference.label)} {value.value:.1f}"
            where = f" on {table.task}" if len(tables) > 1 else ""
            comes = "A harder task" if full else "A stronger teacher, or a task that it does better,"
            yield f"There is little to learn from the teacher on this task: {what}{where}. {comes} comes first."
            return
        clear = clear or known.get(key_of(table, row), math.nan) < SIGNIFICANT
    yield _longer(tables, taught, teachers)
    if any(one.after is None and row.stage in below for row, one in beside_teacher):
        yield "Whether it got nearer to its teacher is measured where `training.validation` names rows."
    if not clear and not full:
        yield "A stronger teacher may help, too: `tutelage forecast` with one says so from small parts of the rows."


def _no_nearer(rows: Sequence[tuple[ResultRow, ToTeacher]], below: Mapping[str, str]) -> str:
    """That the divergence of students from their teachers did not fall: of the first, and what to set for each."""
    row, one = rows[0]
    parts = [f"its divergence from it on the rows of {one.section} did not fall ({one.text})"]
    parts += [below[row.stage]] if row.stage in below else []
    lower = [f"`stages.{row.stage}.training.learning_rate={each.lower_rate}`" for row, each in rows if not row.searched]
    first, more = first_of(lower, 2)
    names = and_joined([*first, *[f"{more} more"] * (more > 0)])
    how = f"add {names} to the command" if lower else f"let `search.grid` try one of {one.lower_rate}"
    return (
        f"{named(row.label)} did not get nearer to its teacher: {', and '.join(parts)}. A smaller learning rate comes "
        f"first, before another teacher: {how}."
    )


def _longer(tables: Sequence[TaskTable], taught: Sequence[ResultRow], teachers: set[str | None]) -> str:
    """How these students might be trained better by the teacher that they have."""
    first, more = first_of(taught, 2)
    names = and_joined([f"`stages.{row.stage}.training`" for row in first] + [f"{more} more"] * (more > 0))
    keys = "more `epochs` and another `learning_rate`"
    how = f"{keys} in {names}, or a `search` over both (docs/recipe.md)"
    if any(row.searched for row in taught):
        how = f"a wider `search.grid`: {keys}"
    for table in tables:
        teacher, student = _best(table, teachers), _best(table, {row.stage for row in taught})
        if teacher and student and teacher[1].value > student[1].value:
            scores = f"{teacher[1].value:.1f} and {named(student[0].label)} {student[1].value:.1f}"
            where = f" on {table.task}" if len(tables) > 1 else ""
            return f"The teacher scores {scores}{where}: more may be learnt from it with {how}."
    return f"More may be learnt from the teacher with {how}."


def _best(table: TaskTable, stages: Collection[str | None]) -> tuple[TableRow, TableValue] | None:
    """Of these stages the row that scores most on the table's headline metric, with its score."""
    own = [(row, value) for row in table.rows if row.stage in stages and (value := row.value(table.headline))]
    return max((one for one in own if not math.isnan(one[1].value)), key=lambda one: one[1].value, default=None)


def more_rows(row: TableRow, beside: TableRow, versus: Paired, needed: float) -> str:
    """How many more test rows would tell two models apart. `needed`: so many would, four times in five."""
    label, other, n = named(row.label), named(beside.label), versus.examples
    shows = f"these {n:,} show a difference of {POWER * versus.stderr:.1f} points four times in five"
    longer = "name a longer file in `data.test` (`tutelage init` splits a fifth of the rows off, 500 at most)"
    size = f"{abs(versus.difference):.1f}"
    if is_level(versus):
        alike = "alike" if versus.difference == 0 else "about alike"
        return f"{label} and {other} score {alike}: {shows}, and more test rows would show a smaller one; {longer}."
    start = f"To tell {label} from {other} takes more test rows: {shows}"
    if needed > MOST_TIMES * n:
        return f"{start}; one as small as here ({size}) would take more than {MOST_TIMES * n:,}."
    return f"{start}, and one of {size}, as here, would take about {_two_digits(needed):,}: {longer}."


def is_level(versus: Paired) -> bool:
    """Whether no difference is left in points of one decimal."""
    return round(versus.difference, 1) == 0


def _two_digits(value: float) -> int:
    unit = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / unit) * unit
