"""Which model to use by the evidence, and what to do next: what the first screen says after its verdicts.

Students of one size cost the same to use, so the one with the highest score is named, whether or not the difference was
shown; which it is, is said. A larger one is named only where it was shown to score higher. As the best is picked by its
score, any pair of students may come up: the p-values of all of them are corrected with those of the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tutelage.common.errors import and_joined, first_of
from tutelage.common.run_folder import MODEL, WHERE, models_folder
from tutelage.evaluation.chance import MATCHES
from tutelage.evaluation.statistics import SIGNIFICANT, Paired
from tutelage.report.comparisons import swapped
from tutelage.report.labels import TRAINED, metric_label
from tutelage.report.numbers import interval_text, p_text
from tutelage.report.recipe.advice import POWER, is_level, more_rows, teacher_advice
from tutelage.report.recipe.pairs import TaskPairs, pairs_of
from tutelage.report.recipe.savings import below_teachers
from tutelage.report.recipe.tables import TableRow, TaskTable
from tutelage.report.recipe.verdicts import (
    Test,
    corrected_beside,
    deciding,
    distance,
    is_saturated,
    judged_rows,
    key_of,
    named,
    not_shown,
)

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults, ResultRow, TrainedModel

SPOKEN_OF = 3  # other models whose distance is given
MUCH = 10  # points by which a score is above exact match that may be taken for the share of right answers
_ALL = {1: "the other", 2: "both others"}


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
    """A student minus another, on one task."""

    table: TaskTable
    row: TableRow
    other: TableRow
    versus: Paired
    p_value: float  # corrected

    @property
    def sign(self) -> int:
        """1: shown to be better; -1: shown to be worse; 0: no difference was shown."""
        return 0 if not self.p_value < SIGNIFICANT else 1 if self.versus.difference > 0 else -1

    @property
    def is_said(self) -> bool:
        """Whether a verdict says it."""
        judged = {row.stage for row in judged_rows(self.table)}
        return any(
            one.stage in judged and beside.is_reference
            for one, beside in ((self.row, self.other), (self.other, self.row))
        )

    @property
    def rows_needed(self) -> float:
        """How many test rows would show a difference as large as this one, four times in five; inf: none would."""
        seeds, n = self.versus.seed_stderr, self.versus.examples
        of_rows = self.versus.stderr**2 - seeds**2
        room = (self.versus.difference / POWER) ** 2 - seeds**2
        return n * max(of_rows, 0.0) / room if room > 0 else math.inf


@dataclass(frozen=True)
class _Comparisons:
    """All students against each other."""

    found: tuple[_Compared, ...]  # each pair once per task
    count: int  # for how many tests p is corrected

    def of(self, stage: str, other: str | None = None) -> list[_Compared]:
        """A student minus each other one, or minus `other`, on each task."""
        own = [one for one in self.found if one.row.stage == stage]
        own += [_Compared(one.table, one.other, one.row, swapped(one.versus), one.p_value)
                for one in self.found if one.other.stage == stage]  # fmt: skip
        return [one for one in own if other in (None, one.other.stage)]

    def beats(self, row: ResultRow, other: ResultRow) -> bool:
        """Whether a student was shown to be better than another, and nowhere to be worse."""
        signs = {one.sign for one in self.of(row.stage, other.stage)}
        return 1 in signs and -1 not in signs


def choose(results: RecipeResults, tables: Sequence[TaskTable], pairs: Sequence[TaskPairs] = ()) -> Choice | None:
    """The model to use, of the students that have scores; None where no trained one has any. `pairs`: of these tables,
    where they are known."""
    tables, _ = deciding(results, tables)
    students = _students(results, tables)
    if not any(row.kind in TRAINED for row in students):
        return None
    compared = _compare(results, tables, students, pairs)
    levels = _levels(tables, students)
    sizes = _by_size(students)
    chosen, equals = _best(sizes[0], levels, compared), sizes[0]
    smaller = None  # than the chosen one, and the best of these
    for larger in sizes[1:]:
        best = _best(larger, levels, compared)
        if compared.beats(best, chosen):
            chosen, equals, smaller = best, larger, chosen
    others = sorted((row for row in students if row is not chosen), key=lambda row: -levels[row.stage])
    place = _place(results, chosen.stage)
    what = f"`{place[0]}`{place[1]}" if place else named(chosen.label)
    whys = [_why(chosen, smaller, others, levels, len(tables))]
    whys += _shown(chosen, [row for row in others if row in equals], levels, compared)
    beyond = [row for row in others if row not in equals and row is not smaller and smaller is None]
    whys += ["No larger one was shown to be better."] if beyond and len(equals) > 1 else []
    why = " ".join([*whys, *_exact(tables, chosen), *_distances(compared, chosen, others)])
    commands = () if place is None else tuple(_commands(results, place[0], chosen))
    return Choice(chosen.stage, f"Use {what}.", why, _next(results, tables, compared, chosen, others, pairs), commands)


def asked(results: RecipeResults, tables: Sequence[TaskTable], pairs: Sequence[TaskPairs] = ()) -> dict[Test, float]:
    """The comparisons that sentences can be about, with their p, corrected as in the sentence on each."""
    tables, _ = deciding(results, tables)
    compared = _compare(results, tables, _students(results, tables), pairs)
    known = {key_of(one.table, one.row, one.other): one.p_value for one in compared.found}
    return known | corrected_beside(results, tables, {})  # those on judged rows and teachers, for these alone


def shown(known: Mapping[Test, float]) -> frozenset[Test]:
    """Those in which a difference was shown."""
    return frozenset(test for test, p_value in known.items() if p_value < SIGNIFICANT)


def _students(results: RecipeResults, tables: Sequence[TaskTable]) -> list[ResultRow]:
    scored = {row.stage for table in tables for row in table.rows if row.runs}
    return [row for row in results.rows if row.stage in scored and not row.of_teacher and row.kind != "baseline"]


def _compare(
    results: RecipeResults, tables: Sequence[TaskTable], students: Sequence[ResultRow], pairs: Sequence[TaskPairs]
) -> _Comparisons:
    """Every student against every other on each task."""
    stages, known = {row.stage for row in students}, {one.table.task: one for one in pairs}
    found = [
        (table, pair)
        for table in tables
        for pair in (known.get(table.task) or pairs_of(table)).pairs
        if pair.tested and {pair.left.stage, pair.right.stage} <= stages
    ]
    tests = {key_of(table, pair.left, pair.right): pair.versus.p_value for table, pair in found}
    corrected = corrected_beside(results, tables, tests)
    compared = [
        _Compared(table, pair.left, pair.right, pair.versus, corrected[key_of(table, pair.left, pair.right)])
        for table, pair in found
    ]
    return _Comparisons(tuple(compared), len(corrected))


def _levels(tables: Sequence[TaskTable], students: Sequence[ResultRow]) -> dict[str, float]:
    """By stage: by how many points it is above the students' mean, on average over the tasks that it has scores of."""
    above: dict[str, list[float]] = {row.stage: [] for row in students}
    for table in tables:
        values = {row.stage: value.value for row in table.rows if (value := row.value(table.headline)) is not None}
        known = {stage: values[stage] for stage in above if not math.isnan(values.get(stage, math.nan))}
        for stage, value in known.items():
            above[stage].append(value - fmean(known.values()))
    return {stage: round(fmean(own), 6) if own else -math.inf for stage, own in above.items()}


def _by_size(students: Sequence[ResultRow]) -> list[list[ResultRow]]:
    """The students, smaller ones first, those of one size together; all together where a size is not known."""
    sizes = [row.weights for row in students]
    if None in sizes:
        return [list(students)]
    return [[row for row in students if row.weights == size] for size in sorted({size or 0 for size in sizes})]


def _best(rows: Sequence[ResultRow], levels: dict[str, float], compared: _Comparisons) -> ResultRow:
    """The one with the highest score, of those that none of the others was shown to beat; of equal ones that which took
    least: a teacher or none, then steps, then the first in the table."""
    unbeaten = [row for row in rows if not any(compared.beats(other, row) for other in rows)]
    return min(unbeaten or rows, key=lambda row: (-levels[row.stage], *_effort(row)))


def _effort(row: ResultRow) -> tuple[bool, float]:
    """What a student took to make: a teacher or none, then steps."""
    return row.kind not in ("sft", "model"), math.inf if row.steps is None else row.steps


def _why(
    chosen: ResultRow, smaller: ResultRow | None, others: Sequence[ResultRow], levels: dict[str, float], tasks: int
) -> str:
    """Why the chosen one: its score, or that it was shown to be better than `smaller`, the best of smaller ones."""
    name = f"{chosen.label}{', without any training,' if chosen.kind == 'model' else ''}"
    if not others:
        return f"{name} is the only trained student with scores."
    known = chosen.weights is not None
    if smaller is not None:
        return f"{name} was shown to be better than {named(smaller.label)}, the best of the smaller students."
    equals = [row for row in others if not known or row.weights == chosen.weights]
    if not equals:
        return f"{name} is the smallest of {len(others) + 1} students, and no larger one was shown to be better."
    where = "" if tasks == 1 else f" on average over {tasks} tasks"
    same = " of one size, which cost the same to use" if known else ""
    best = f"highest of {len(equals) + 1} students{same}"
    alike = [row for row in equals if levels[row.stage] == levels[chosen.stage]]
    if not alike:
        return f"{name} scores {best}{where}."
    cheaper = "needs no teacher" if any(_effort(row)[0] > _effort(chosen)[0] for row in alike) else (
        f"trained for {chosen.steps:,} steps, no more than the rest" if chosen.steps is not None
        else "is the first in the table"
    )  # fmt: skip
    return f"{name} and {_names(alike)} score alike{where}, {best}; {named(chosen.label)} {cheaper}."


def _exact(tables: Sequence[TaskTable], chosen: ResultRow) -> Iterator[str]:
    """The share of right answers, where the headline score is much higher and may be taken for it."""
    found = ((table, row) for table in tables for row in table.rows if row.stage == chosen.stage)
    for table, row in found:
        own, score = [row.value(metric) for metric in MATCHES], row.value(table.headline)
        right = next((value for value in own if value is not None), None)
        if right is not None and score is not None and score.value - right.value >= MUCH:
            where = f" on {table.task}" if len(tables) > 1 else ""
            yield (
                f"Its {metric_label(table.headline)} of {score.value:.1f}{where} is not the share of right answers: "
                f"its {metric_label(right.metric).lower()} is {right.value:.1f}."
            )


def _shown(
    chosen: ResultRow, equals: Sequence[ResultRow], levels: dict[str, float], compared: _Comparisons
) -> list[str]:
    """Than which others of its size the chosen one was shown to be better, and than which it was not."""
    better = [row for row in equals if compared.beats(chosen, row)]
    rest = [row for row in equals if row not in better]
    if not equals:
        return []
    if not rest:
        return [f"It was shown to be better than {_ALL.get(len(better), f'all {len(better)} others')}."]
    may = f"{_names(rest)} may be as good"
    if not better and all(levels[row.stage] == levels[chosen.stage] for row in rest):
        return []  # they score alike
    if not better:
        return [f"But no difference that large was shown to be more than chance: {may}."]
    return [f"It was shown to be better than {_names(better)}; {may}."]


def _names(rows: Sequence[ResultRow]) -> str:
    """The labels of the first, and how many more there are."""
    first, left = first_of(rows, SPOKEN_OF)
    return and_joined([named(row.label) for row in first] + [f"{left} more"] * (left > 0))


def _distances(compared: _Comparisons, chosen: ResultRow, others: Sequence[ResultRow]) -> Iterator[str]:
    """A sentence for each of the first others on how far it is from the chosen one, where no verdict says so; short
    ones for the rest."""
    own = {row.label: [one for one in compared.of(row.stage, chosen.stage) if not one.is_said] for row in others}
    several = len({one.table.task for one in compared.found}) > 1
    corrected = f" after correction for {compared.count} comparisons" if compared.count > 1 else ""
    spoken = [(label, found) for label, found in own.items() if found]
    first, _ = first_of(spoken, SPOKEN_OF)
    for label, found in first:
        parts = []
        for one in found:
            open_ = not_shown(one.versus, compared.count)
            end = {0: open_, 1: "it is better", -1: "it is worse"}[one.sign]
            where = f" on {one.table.task}" if several else ""
            evidence = f"95 % interval {interval_text(one.versus)}, {p_text(one.p_value)}{corrected}"
            parts.append(f"{distance(one.versus, named(chosen.label))}{where} ({evidence}): {end}")
            corrected = ""
        yield f"{label} is {'; '.join(parts)}."
    rest = [(label, {one.sign for one in found}) for label, found in spoken[len(first) :]]
    yield from (f"{named(label)} is worse." for label, signs in rest if -1 in signs)
    if same := sum(signs == {0} for _, signs in rest):
        yield f"No difference to {same} more was shown."


def _next(
    results: RecipeResults,
    tables: Sequence[TaskTable],
    compared: _Comparisons,
    chosen: ResultRow,
    others: Sequence[ResultRow],
    pairs: Sequence[TaskPairs],
) -> str:
    """What the comparisons ask for; empty without any, or where the tests are too easy to tell."""
    found = [one for row in others for one in compared.of(chosen.stage, row.stage)]
    if not found or all(is_saturated(table) for table in tables):
        return ""
    again = "`'seeds=[0,1,2]'` added to the command"
    said = []
    if still := [one for one in found if one.sign == 0 and one.versus.stderr and not is_saturated(one.table)]:
        first = still[0]  # of the best of the others
        said.append(more_rows(first.row, first.other, first.versus, first.rows_needed))
        seeds = f"Other training runs ({again})" if len(results.seeds) == 1 else "More seeds"
        what = "they differ by more" if is_level(first.versus) else "it is more"
        said.append(f"{seeds} would tell whether {what} than the chance of one training.")
    kinds = {row.stage: row.kind for row in others}
    taught = [one for one in found if kinds[one.other.stage] not in ("sft", "model")]
    if chosen.kind not in ("sft", "model"):
        if not still and len(results.seeds) == 1:
            said.append(f"Before you rely on the difference, see whether other training runs show it, too: {again}.")
        elif not still:
            said.append("`tutelage forecast` says from small parts of the rows how the gain changes with their number.")
    elif taught and all(one.sign > 0 for one in taught):
        rows = [row for row in others if row.kind not in ("sft", "model")]
        said += teacher_advice(results, tables, rows, below_teachers(results, tables, pairs, rows))
    return " ".join(said)


def _commands(results: RecipeResults, place: str, chosen: ResultRow) -> Iterator[tuple[str, str]]:
    yield "talk to it", f"tutelage chat {place}"
    taught = [model for model in results.models if model.run.kind != "sft"]
    others = [*taught, *(model for model in results.models if model.stage == results.reference)]
    for model in others:
        if model.stage != chosen.stage and (other := _place(results, model.stage)):
            yield f"talk to {named(model.label)} beside it", f"tutelage chat {place} {other[0]}"
            break
    yield "measure it on a benchmark (needs hub and lm-eval)", f"tutelage evaluate --model {place} --tasks ifeval"
    yield "take it to llama.cpp and others (needs llama.cpp)", f"tutelage export {place} --gguf"


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
