"""The report's sentences: what the numbers say, in words that claim no more than the numbers do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tutelage.evaluation.chance import CHANCE_LEVEL, MATCHES, binomial_tail, commonest_share
from tutelage.evaluation.statistics import SIGNIFICANT, Paired, holm
from tutelage.report.labels import metric_label
from tutelage.report.numbers import Tone, decimals, interval_text, p_text, score_text
from tutelage.report.recipe.tables import TableRow, TaskTable

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults, ResultRow

SATURATED = 95  # per cent right from which no difference can be expected
DISTILLED = ("distill", "method")  # kinds of stages that the report is about


@dataclass(frozen=True)
class Verdict:
    """A sentence about a difference, and what it says: better, worse or unclear."""

    text: str
    tone: Tone
    stage: str | None = None  # the row that it is about; None: a sentence about the whole


def progress_text(results: RecipeResults) -> str:
    """How many runs are done, of a recipe that is not done; else empty."""
    if results.done >= results.planned:
        return ""
    return f"{results.done} of {results.planned} runs are done; scores of the others are missing below."


def verdicts(results: RecipeResults, tables: Sequence[TaskTable]) -> list[Verdict]:
    """One sentence for each distilled row (else each trained row) on each task that no setting was chosen on. Their
    p-values are corrected together by Holm's method, since a reader takes the best of them."""
    if results.reference is None:
        return [Verdict("No reference row is named, so no difference to one was tested.", "unclear")]
    judged, left_out = deciding(results, tables)
    rows = [(table, row) for table in judged for row in judged_rows(table)]
    if len(rows) > 1 and not any(row.value(table.headline) for table in judged for row in table.rows):
        return [Verdict("No model has scores yet, so nothing can be said.", "unclear")]
    known = corrected(results, judged)
    found = [
        replace(_verdict(table, row, known.get(key_of(table, row), math.nan), len(known)), stage=row.stage)
        for table, row in rows
    ]
    found += [
        Verdict(
            f"{task} is left out: no model was shown to do better on it than the commonest answer given always, "
            f"{chance:.1f}.",
            "unclear",
        )
        for task, chance in left_out.items()
    ]
    found += [
        Verdict(
            f"On {table.task} every compared model is right {SATURATED} times in 100 or more: there is no room for a "
            "difference. A harder test could show one.",
            "unclear",
        )
        for table in judged
        if is_saturated(table)
    ]
    found += weak_teachers(results, judged)
    searched = searched_tasks(results)
    if searched and all(table.task in searched for table in tables):
        found.append(
            Verdict(
                f"Settings were chosen on {', '.join(searched)}, and nothing else is evaluated: searched rows are less "
                "good than they look here.",
                "unclear",
            )
        )
    return found or [Verdict("No trained row is compared with the reference, so no difference was tested.", "unclear")]


def deciding(results: RecipeResults, tables: Sequence[TaskTable]) -> tuple[list[TaskTable], dict[str, float]]:
    """The tables that sentences are about: those of tasks that no setting was chosen on, if there are any, without
    those at chance, of which the second value has the score of always giving the commonest answer."""
    searched = searched_tasks(results)
    apart = [table for table in tables if table.task not in searched] or [*tables]
    left_out = {table.task: chance for table in apart if (chance := _at_chance(table)) is not None}
    return [table for table in apart if table.task not in left_out], left_out


Test = tuple[str, frozenset[str]]  # a task, and the stages of the two rows that are compared on it


def key_of(table: TaskTable, row: TableRow, other: TableRow | None = None) -> Test:
    """A row against another, by default the reference."""
    other = other or table.reference
    return table.task, frozenset({row.stage, other.stage if other else ""})


def corrected(results: RecipeResults, tables: Sequence[TaskTable]) -> dict[Test, float]:
    """The p-values of the sentences on judged rows, corrected together by Holm's method."""
    return _holm({key_of(table, row): _p_value(table, row) for table in tables for row in judged_rows(table)})


def corrected_beside(
    results: RecipeResults, tables: Sequence[TaskTable], more: Mapping[Test, float]
) -> dict[Test, float]:
    """p-values of the first screen's other sentences, corrected with those on judged rows and on teachers. A test that
    a judged row's sentence has made keeps the p of that sentence."""
    first = {key_of(table, row): _p_value(table, row) for table in tables for row in judged_rows(table)}
    teachers = {key_of(table, row): _p_value(table, row) for table, row in _teachers(results, tables)}
    return _holm(first | teachers | {**more}) | _holm(first)


def _holm(tests: Mapping[Test, float]) -> dict[Test, float]:
    """Corrected p-values; none for what could not be tested."""
    known = {test: p for test, p in tests.items() if not math.isnan(p)}
    return dict(zip(known, holm([*known.values()]), strict=True))


def _teachers(results: RecipeResults, tables: Sequence[TaskTable]) -> list[tuple[TaskTable, TableRow]]:
    names = {row.teacher for row in results.rows if row.teacher is not None}
    return [(table, row) for table in tables for row in table.rows if row.stage in names and not row.is_reference]


def weak_teachers(results: RecipeResults, tables: Sequence[TaskTable]) -> list[Verdict]:
    """A sentence per task and teacher that scores less than the row which distilled ones are compared with."""
    known, found = corrected_beside(results, tables, {}), []
    for table, row in _teachers(results, tables):
        value, p_value = row.value(table.headline), known.get(key_of(table, row), math.nan)
        versus = None if value is None else value.versus
        if table.reference is None or versus is None or versus.difference >= 0.0 or not p_value < SIGNIFICANT:
            continue
        longer = f"train it longer (`stages.{row.stage}.training.epochs`)"
        advice = "fine-tune it first" if row.kind == "model" else longer
        found.append(
            Verdict(
                f"The teacher, {row.label}, scores {distance(versus, named(table.reference.label))} on {table.task} "
                f"(95 % interval {interval_text(versus)}, {p_text(p_value)} after correction): it has less to teach "
                f"than the student learns by itself; {advice}, or take a larger one.",
                "unclear",
            )
        )
    return found


def is_saturated(table: TaskTable) -> bool:
    """Whether the judged rows and their reference all match nearly every answer exactly."""
    rows = [row for row in (*judged_rows(table), table.reference) if row is not None and row.runs]
    values = [value.value for row in rows if (value := row.value(table.headline)) is not None]
    return table.headline in MATCHES and len(values) > 1 and min(values) >= SATURATED


def _at_chance(table: TaskTable) -> float | None:
    """The score (0..100) of always giving the commonest reference, where that explains all that the judged rows and
    their reference match exactly (binomial, Holm over them); else None, as for tasks with another headline metric."""
    rows = [row for row in (*judged_rows(table), table.reference) if row is not None and row.runs]
    if table.headline not in MATCHES or not rows:
        return None
    records = rows[0].runs[0].records
    share = commonest_share([one.references for one in records])
    values = [value.value for row in rows if (value := row.value(table.headline)) and not math.isnan(value.value)]
    guessed = [binomial_tail(round(value / 100 * len(records)), len(records), share) for value in values]
    return 100 * share if guessed and min(holm(guessed)) > CHANCE_LEVEL else None


def yardstick(results: RecipeResults, tables: Sequence[TaskTable]) -> list[str]:
    """What distilled rows are compared with, a sentence per reference, and whether it controls for their training."""
    found: dict[str, None] = {}
    by_stage = {row.stage: row for row in results.rows}
    for table in tables:
        reference, rows = table.reference, judged_rows(table)
        if reference is None or not any(row.kind in DISTILLED for row in rows):
            continue
        what = "SFT, then as much SFT again on the same data with a fresh schedule"
        text = f"Distilled models are compared with {named(reference.label)}"
        others = [row.label for row in table.rows if by_stage[row.stage].control and row is not reference]
        control = by_stage[reference.stage]
        if control.control:
            compared = [by_stage[row.stage] for row in rows]
            shorter, least = _trained_less(results, control, compared), "so that no gain is that of more steps"
            text += f", which trained on the same data again with a fresh schedule{'' if shorter else f', {least}'}."
            text += shorter + _searched_less(results, control, compared)
        elif others:
            text += f", as `compare_to` says; the control of equal training, {named(others[0])}, is in the table."
        else:
            text += f". The control is missing ({what}): a gain may be that of more steps or of a second schedule."
        found[text] = None
    return list(found)


def _trained_less(results: RecipeResults, control: ResultRow, rows: Sequence[ResultRow]) -> str:
    """That a control trained for fewer steps than a row that is compared with it, where no search chose how many; else
    empty."""
    chosen = control.searched and results.search is not None and {"epochs", "max_steps"} & {*results.search.grid}
    longest = max(rows, key=lambda row: row.steps or 0)
    if chosen or control.steps is None or (longest.steps or 0) <= control.steps:
        return ""
    both = f"it trained for {control.steps:,} steps in all, {named(longest.label)} for {longest.steps:,}"
    return f" But {both}: a gain may be that of more steps."


def _searched_less(results: RecipeResults, control: ResultRow, rows: Sequence[ResultRow]) -> str:
    """That fewer settings were tried for a control than for a row that is compared with it; else empty."""
    if any(row.searched for row in rows) and not control.searched:
        return " But its settings were not searched, as theirs were."
    tried = Counter(point.stage for point in results.search.points) if results.search else Counter[str]()
    most = max(tried[row.stage] for row in rows)
    fewer = control.searched and tried[control.stage] < most
    return f" But {tried[control.stage]} settings were tried for it, and {most} for others." if fewer else ""


def _p_value(table: TaskTable, row: TableRow) -> float:
    value = row.value(table.headline)
    return math.nan if value is None or value.versus is None else value.versus.p_value


def searched_tasks(results: RecipeResults) -> tuple[str, ...]:
    """The evaluated tasks that settings were chosen on. Their scores are optimistic: no verdict if there are others."""
    tasks = results.search.tasks if results.search else ()
    return tuple(task for task in tasks if task in results.tasks)


def judged_rows(table: TaskTable) -> list[TableRow]:
    """The rows that the report is about: the distilled ones; where there are none, the other trained ones."""
    others = [row for row in table.rows if not row.is_reference]
    return [row for row in others if row.kind in DISTILLED] or [row for row in others if row.kind in ("sft", "seqkd")]


def _verdict(table: TaskTable, row: TableRow, p_value: float, count: int) -> Verdict:
    """`p_value`: corrected for the `count` comparisons of all verdicts."""
    value, reference = row.value(table.headline), table.reference
    if value is None:
        return Verdict(f"{row.label} has no {table.task} scores yet, so nothing can be said about it.", "unclear")
    start = f"{row.label} scores {score_text(value)} {metric_label(table.headline)} on {table.task}"
    if value.versus is None:
        none = "there is no reference row, so no difference to one"
        which = f"{reference.label} has no {table.task} scores, so no difference to it" if reference else none
        return Verdict(f"{start}; {which} was tested.", "unclear")
    assert reference is not None
    if math.isnan(value.versus.difference):
        return Verdict(f"{start}; too few examples are scored to test a difference.", "unclear")
    helped, hurt = (
        ("distilling helped", "distilling hurt") if row.kind in DISTILLED else ("it is better", "it is worse")
    )
    if not p_value < SIGNIFICANT:
        end, tone = not_shown(value.versus, count), "unclear"
    else:
        end, tone = (helped, "better") if value.versus.difference > 0 else (hurt, "worse")
    after = f" after correction for {count} comparisons" if count > 1 else ""
    evidence = f"95 % interval {interval_text(value.versus)}, {p_text(p_value)}{after}"
    text = f"{start}, {distance(value.versus, named(reference.label))} ({evidence}): {end}."
    return Verdict(text + _caveat(row, reference), tone)


def not_shown(versus: Paired, count: int) -> str:
    """That p, corrected for `count` comparisons, shows no difference, though the interval alone may."""
    if count > 1 and (versus.low > 0 or versus.high < 0):
        return "the interval alone leaves out 0, but after correction no difference was shown"
    return "no difference was shown"


def distance(versus: Paired, reference: str) -> str:
    digits = decimals((versus.difference, versus.low, versus.high))
    amount = f"{abs(versus.difference):.{digits}f}"
    if float(amount) == 0:
        return f"level with {reference}"
    return f"{amount} {'above' if versus.difference > 0 else 'below'} {reference}"


def named(label: str) -> str:
    """A label within a sentence, in quotes if it has a comma."""
    return f"“{label}”" if "," in label else label


def _caveat(row: TableRow, reference: TableRow) -> str:
    parts = []
    for one in (row, reference):
        if one.missing and one.runs:
            parts.append(f"{one.label} has {one.seeds_text} seeds so far")
    if len(row.runs) == 1 and len(reference.runs) == 1:
        parts.append("with one training run each, the interval does not cover another run (seed)")
    joined = "; ".join(parts)
    return f" {joined[:1].upper()}{joined[1:]}." if joined else ""
