"""The report's tables as files, and the table of a hyperparameter search."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from tutelage.report.labels import metric_label
from tutelage.report.numbers import difference_text, interval_text
from tutelage.report.recipe.pairs import Pair, TaskPairs
from tutelage.report.recipe.tables import MetricValue, TableRow, TaskTable, mean_text


def csv_table(tables: Sequence[TaskTable]) -> str:
    """One line a row, task and metric; numbers in full, empty where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["task", "stage", "label", "kind", "metric", "mean", "stderr", "seeds", "examples", "unscored", "reference",
         "difference", "low", "high", "p_value", "cut_share", "mean_tokens", "chosen"]
    )  # fmt: skip
    for table in tables:
        reference = table.reference.stage if table.reference else ""
        for row in table.rows:
            for metric in table.metrics:
                writer.writerow(_csv_line(table.task, row, metric, row.value(metric), reference))
    return buffer.getvalue()


def _csv_line(task: str, row: TableRow, metric: str, value: MetricValue | None, reference: str) -> list[Any]:
    start = [task, row.stage, row.label, row.kind, metric]
    if value is None:
        return [*start, "", "", 0, "", "", reference, "", "", "", "", "", "", row.chosen_text]
    mean, versus = value.mean, value.versus
    compared = [versus.difference, versus.low, versus.high, versus.p_value] if versus else [math.nan] * 4
    numbers = [mean.mean, mean.stderr, mean.seeds, row.examples, mean.dropped]
    return [
        *start,
        *("" if math.isnan(one) else one for one in numbers),
        reference,
        *("" if math.isnan(one) else one for one in compared),
        row.cut_share,
        row.mean_tokens,
        row.chosen_text,
    ]


def pairs_csv(tasks: Sequence[TaskPairs]) -> str:
    """One line a pair of rows; left − right in 0..100, empty where too few examples are scored to compare."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["task", "metric", "left", "right", "left_label", "right_label", "difference", "low", "high", "p_value",
         "seeds", "examples"]
    )  # fmt: skip
    for task in tasks:
        for pair in task.pairs:
            writer.writerow([task.table.task, task.table.headline, *_pair_line(pair)])
    return buffer.getvalue()


def _pair_line(pair: Pair) -> list[Any]:
    left, right, versus = pair.left, pair.right, pair.versus
    compared = [versus.difference, versus.low, versus.high, versus.p_value]
    return [
        *(left.stage, right.stage, left.label, right.label),
        *("" if math.isnan(one) else one for one in compared),
        *(pair.seeds, versus.examples),
    ]


def markdown_table(tables: Sequence[TaskTable]) -> str:
    """A table a task; `*` marks p < 0.05."""
    parts = []
    for table in tables:
        against = f" − {table.reference.label}" if table.reference else ""
        head = ["", *(name for metric in table.metrics for name in (metric_label(metric), f"Δ{against} (95 %)"))]
        head += ["seeds", "n", "chosen"]
        lines = [head, ["---"] * len(head)]
        for row in table.rows:
            cells = [text for metric in table.metrics for text in _markdown_cells(row, row.value(metric))]
            lines.append([row.label, *cells, row.seeds_text, str(row.examples or ""), row.chosen_text])
        rendered = ["| " + " | ".join(_markdown_escape(cell) for cell in line) + " |" for line in lines]
        parts.append("\n".join([f"**{_markdown_escape(table.task)}**", "", *rendered]))
    return "\n\n".join(parts) + "\n\nMean ± standard error over seeds and examples; * p < 0.05, paired bootstrap.\n"


def _markdown_cells(row: TableRow, value: MetricValue | None) -> tuple[str, str]:
    if value is None:
        return "missing", ""
    if row.is_reference:
        return mean_text(value), "reference"
    versus = value.versus
    if versus is None or math.isnan(versus.difference):
        return mean_text(value), ""
    return mean_text(value), f"{difference_text(versus)} ({interval_text(versus)}){' *' if value.significant else ''}"


def _markdown_escape(text: str) -> str:
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
