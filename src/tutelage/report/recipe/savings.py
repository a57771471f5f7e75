"""What a small model saves, and what it gives up: its size and score beside its teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tutelage.common.run_folder import MODEL
from tutelage.evaluation.statistics import SIGNIFICANT
from tutelage.report.numbers import interval_text, p_text
from tutelage.report.recipe.pairs import Pair, TaskPairs, pairs_of
from tutelage.report.recipe.verdicts import Test, corrected_beside, deciding, distance, key_of, named, not_shown

if TYPE_CHECKING:
    from tutelage.report.recipe.tables import TaskTable
    from tutelage.runs.recipe_results import RecipeResults, ResultRow


def teacher_of(results: RecipeResults, stage: str) -> ResultRow | None:
    """The row of the teacher that taught a stage's model, or else taught another student; None without such a row."""
    rows = {row.stage: row for row in results.rows}
    taught = [rows[stage], *results.rows] if stage in rows else [*results.rows]
    found = next((rows[row.teacher] for row in taught if row.teacher in rows), None)
    return found if stage in rows and not rows[stage].of_teacher else None


def size_text(results: RecipeResults, stage: str) -> str:
    """A sentence on a model's size beside its teacher's; empty where one is not known, or where it is not smaller."""
    own, teacher = next((row for row in results.rows if row.stage == stage), None), teacher_of(results, stage)
    if own is None or teacher is None or not own.weights or not teacher.weights or own.weights >= teacher.weights:
        return ""
    share = f"{100 * own.weights / teacher.weights:.2g} %"
    sizes = f"{_size(own)}, {share} of its teacher's: {named(teacher.label)} has {_size(teacher, '')}"
    return f"{named(own.label)} has {sizes}."


def beside_teacher(
    results: RecipeResults, tables: Sequence[TaskTable], pairs: Sequence[TaskPairs], stage: str
) -> dict[Test, float]:
    """A model's teacher against it, on each task: p, corrected together with what the other sentences are about and,
    as any student might have been the model to use, with the teacher against all of them."""
    tables, _ = deciding(results, tables)
    teacher = teacher_of(results, stage)
    if teacher is None:
        return {}
    names = {row.stage for row in results.rows if not row.of_teacher} | {teacher.stage}
    found = [
        (key_of(one.table, pair.left, pair.right), pair)
        for one in pairs
        for pair in one.pairs
        if one.table in tables and pair.tested and {pair.left.stage, pair.right.stage} <= names
    ]
    corrected = corrected_beside(results, tables, {test: pair.versus.p_value for test, pair in found})
    return {test: corrected[test] for test, _ in found if test[1] == {stage, teacher.stage}}


def below_teachers(
    results: RecipeResults, tables: Sequence[TaskTable], pairs: Sequence[TaskPairs], rows: Sequence[ResultRow]
) -> dict[str, str]:
    """By stage, of students that were shown to be worse than their own teacher: by how much, on the first such task."""
    pairs, found = pairs or [pairs_of(table) for table in tables], {}
    for row in rows:
        known = beside_teacher(results, tables, pairs, row.stage) if row.teacher else {}
        for one in pairs:
            pair = _pair(one, row.stage, row.teacher or "")
            p_value = math.nan if pair is None else known.get(key_of(one.table, pair.left, pair.right), math.nan)
            if pair is not None and p_value < SIGNIFICANT and pair.versus.difference < 0 and row.stage not in found:
                where = f" on {one.table.task}" if len(pairs) > 1 else ""
                found[row.stage] = (
                    f"it scores {distance(pair.versus, named(pair.right.label))}{where} (95 % interval "
                    f"{interval_text(pair.versus)}, {p_text(p_value)} after correction)"
                )
    return found


def given_up(
    results: RecipeResults, pairs: Sequence[TaskPairs], stage: str, known: Mapping[Test, float]
) -> Iterator[str]:
    """A sentence per task on which the teacher scores more than the model to use. `known`: corrected p-values."""
    teacher = teacher_of(results, stage)
    if teacher is None:
        return
    for one in pairs:
        pair = _pair(one, teacher.stage, stage)
        p_value = math.nan if pair is None else known.get(key_of(one.table, pair.left, pair.right), math.nan)
        if pair is None or math.isnan(p_value) or not pair.versus.difference > 0:
            continue
        where = f" on {one.table.task}" if len(pairs) > 1 else ""
        end = "so much is given up" if p_value < SIGNIFICANT else not_shown(pair.versus, len(known))
        yield (
            f"{named(pair.left.label)} scores {distance(pair.versus, named(pair.right.label))}{where} (95 % interval "
            f"{interval_text(pair.versus)}, {p_text(p_value)} after correction): {end}."
        )


def _pair(pairs: TaskPairs, left: str, right: str) -> Pair | None:
    rows = {row.stage: row for row in pairs.rows}
    return pairs.cell(rows[left], rows[right]) if {left, right} <= rows.keys() else None


def _size(row: ResultRow, unit: str = " parameters") -> str:
    """ "64 million parameters (255 MB on disk)", the second where its weights are in a folder of their own."""
    amount = f"{_round(row.weights or 0, 'million', 'billion')}{unit}"
    trained = next((run.trained for run in row.runs if run.trained is not None), None)
    if trained is None or (trained / MODEL / "adapter_config.json").exists():
        return amount
    held = sum(file.stat().st_size for file in (trained / MODEL).glob("*.safetensors"))
    return f"{amount} ({_round(held, 'MB', 'GB')} on disk)" if held else amount


def _round(value: int, million: str, billion: str) -> str:
    small = value < 999_500_000
    return f"{value / (1e6 if small else 1e9):.3g} {million if small else billion}"
