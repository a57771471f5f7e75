"""The report's tables as files."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tutelage.report.labels import metric_label
from tutelage.report.numbers import difference_and_interval, edge_note, score_text
from tutelage.report.recipe.pairs import TaskPairs
from tutelage.report.recipe.tables import TableRow, TableValue, TaskTable
from tutelage.report.recipe.verdicts import Test, key_of
from tutelage.report.table_files import compared_fields, csv_text, markdown_escape, markdown_table

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import SearchResults

MARKED = (
    "An interval is of one comparison alone: with 0 in it, no difference is shown. One without 0 does not suffice: "
    "∗ marks a shown difference, p < 0.05 (paired bootstrap) after correction for the number of comparisons (Holm), as "
    "in the report's sentences. Tested so are students with each other, and teachers with the reference, the model to "
    "use and the students that they taught, on one metric per task; other metrics, baselines and tasks that the "
    "sentences leave out have no verdict, so no ∗."
)


def tables_csv(tables: Sequence[TaskTable]) -> str:
    """One line per row, task and metric; numbers in full, empty where there is none."""
    head = ["task", "stage", "label", "kind", "metric", "mean", "stderr", "seeds", "examples", "unscored", "reference",
            "difference", "low", "high", "p_value", "cut_share", "mean_tokens", "chosen"]  # fmt: skip
    lines = [
        _csv_line(table, row, metric, row.value(metric))
        for table in tables
        for row in table.rows
        for metric in table.metrics
    ]
    return csv_text(head, lines)


def _csv_line(table: TaskTable, row: TableRow, metric: str, value: TableValue | None) -> list[object]:
    numbers = [None, None, 0, None, None]
    if value is not None:
        numbers = [value.value, value.stderr, len(value.seeds), row.examples, value.unscored]
    return [
        *(table.task, row.stage, row.label, row.kind, metric, *numbers),
        table.reference.stage if table.reference else "",
        *compared_fields(value.versus if value else None),
        *((row.cut_share, row.mean_tokens) if value else (None, None)),
        row.chosen_text,
    ]


def pairs_csv(tasks: Sequence[TaskPairs]) -> str:
    """One line per pair of rows; left − right in 0..100, empty where too few examples are scored to compare."""
    head = ["task", "metric", "left", "right", "left_label", "right_label", "difference", "low", "high", "p_value",
            "seeds", "examples"]  # fmt: skip
    lines = [
        [
            *(task.table.task, task.table.headline, pair.left.stage, pair.right.stage),
            *(pair.left.label, pair.right.label, *compared_fields(pair.versus), pair.seeds, pair.versus.examples),
        ]
        for task in tasks
        for pair in task.pairs
    ]
    return csv_text(head, lines)


def search_csv(search: SearchResults) -> str:
    """One line per stage and point of the search: its settings, its score on the task that decides."""
    lines = [
        [one.task, one.stage, *(one.settings.get(key) for key in search.grid), one.value, one.chosen]
        for one in search.points
    ]
    return csv_text(["task", "stage", *search.grid, "value", "chosen"], lines)


def tables_markdown(tables: Sequence[TaskTable], progress: str, shown: Collection[Test]) -> str:
    """One table per task; ∗ marks the differences in `shown`. `progress`: how much is done, where not all is."""
    parts = [progress] if progress else []
    for table in tables:
        against = f" to {table.reference.label}" if table.reference else ""
        head = ["", *(name for metric in table.metrics for name in (metric_label(metric), f"Δ{against} (95 %)"))]
        lines = []
        for row in table.rows:
            cells = [text for metric in table.metrics for text in _markdown_cells(table, row, metric, shown)]
            chosen = [row.chosen_text] * table.has_chosen
            lines.append([row.label, *cells, row.seeds_text, str(row.examples or ""), *chosen])
        rendered = markdown_table([*head, "seeds", "n", *["chosen"] * table.has_chosen], lines)
        parts.append(f"**{markdown_escape(table.task)}**\n\n{rendered}")
    legend = "Mean ± standard error over seeds and examples."
    if any(table.reference for table in tables):
        legend += f" Read Δ and its 95 % interval first. {MARKED}"
    return "\n\n".join([*parts, legend + edge_note(parts)]) + "\n"


def is_marked(table: TaskTable, row: TableRow, metric: str, shown: Collection[Test]) -> bool:
    """Whether a difference to the reference gets ∗: sentences are about the headline metric, and others are not
    tested."""
    return metric == table.headline and key_of(table, row) in shown


def _markdown_cells(table: TaskTable, row: TableRow, metric: str, shown: Collection[Test]) -> tuple[str, str]:
    value = row.value(metric)
    if row.is_reference and value is not None:
        return score_text(value), "reference"
    if value is None or value.versus is None or math.isnan(value.versus.difference):
        return score_text(value), ""
    mark = " ∗" if is_marked(table, row, metric, shown) else ""
    return score_text(value), f"{difference_and_interval(value.versus)}{mark}"
