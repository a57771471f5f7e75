"""What a report's tables and figures are made of: evaluation folders read, aligned, averaged and compared.

A *row* is one model or baseline of the manifest, a *cell* is a row on one task: runs of several seeds on the same
examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.common.errors import TutelageError
from tutelage.evaluation.statistics import SIGNIFICANT, Estimate, Paired, estimate
from tutelage.report.numbers import number
from tutelage.report.scores import Cell, SeedScores, compare, load_cell


@dataclass(frozen=True)
class MetricValue:
    """One number of a table, in 0..100."""

    metric: str
    mean: Estimate
    by_seed: tuple[float, ...]  # each run's mean
    versus: Paired | None  # against the reference row; None for that row itself, or where it has no scores

    @property
    def significant(self) -> bool:
        return self.versus is not None and self.versus.p_value < SIGNIFICANT


@dataclass(frozen=True)
class TableRow:
    stage: str
    label: str
    kind: str
    note: str
    chosen: dict[str, Any]
    is_reference: bool
    cell: Cell
    values: tuple[MetricValue, ...]  # one a metric; empty when the cell has no runs

    @property
    def examples(self) -> int:
        return len(self.cell.runs[0].records) if self.cell.runs else 0

    @property
    def cut_share(self) -> float:
        """Share of responses that hit the length limit."""
        flags = [not record.finished for run in self.cell.runs for record in run.records]
        return sum(flags) / len(flags) if flags else 0.0

    @property
    def mean_tokens(self) -> float:
        counts = [record.tokens for run in self.cell.runs for record in run.records]
        return sum(counts) / len(counts) if counts else 0.0

    @property
    def seeds_text(self) -> str:
        if not self.cell.runs:
            return "none"
        if self.cell.seeds == (None,):
            return "shared"
        there, all_of = len(self.cell.runs), len(self.cell.runs) + len(self.cell.missing)
        return str(there) if there == all_of else f"{there} of {all_of}"

    @property
    def chosen_text(self) -> str:
        return ", ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in self.chosen.items())

    def value(self, metric: str) -> MetricValue | None:
        return next((value for value in self.values if value.metric == metric), None)


@dataclass(frozen=True)
class TaskTable:
    task: str
    headline: str
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def reference(self) -> TableRow | None:
        return next((row for row in self.rows if row.is_reference), None)


def build_tables(manifest: dict[str, Any]) -> list[TaskTable]:
    """One table a task, every row compared with the reference. Raises TutelageError for an unknown reference."""
    reference = manifest.get("reference")
    stages = [row["stage"] for row in manifest["rows"]]
    if reference is not None and reference not in stages:
        raise TutelageError(f"the reference `{reference}` is no row of the report; choose from: {', '.join(stages)}")
    return [_build_table(manifest, task, spec, reference) for task, spec in manifest["tasks"].items()]


def _build_table(manifest: dict[str, Any], task: str, spec: dict[str, Any], reference: str | None) -> TaskTable:
    cells: dict[int, Cell] = {}
    first: SeedScores | None = None
    listed = [row for row in manifest["rows"] if row["stage"] in spec.get("rows", (row["stage"],))]
    reference = spec.get("reference") or reference
    for index, row in enumerate(listed):
        cells[index] = load_cell(manifest, row, task, first)
        first = first or next(iter(cells[index].runs), None)
    base = next((cells[i] for i, row in enumerate(listed) if row["stage"] == reference), None)
    rows = []
    for index, row in enumerate(listed):
        cell, is_reference = cells[index], row["stage"] == reference
        against = None if is_reference else base
        values = tuple(_metric_value(cell, metric, against) for metric in spec["metrics"]) if cell.runs else ()
        rows.append(
            TableRow(
                stage=row["stage"],
                label=row.get("label") or row["stage"],
                kind=row.get("kind") or "model",
                note=row.get("note") or "",
                chosen=row.get("chosen") or {},
                is_reference=is_reference,
                cell=cell,
                values=values,
            )
        )
    return TaskTable(task, spec["headline"], tuple(spec["metrics"]), tuple(rows))


def _metric_value(cell: Cell, metric: str, against: Cell | None) -> MetricValue:
    scores = cell.scores(metric)
    by_seed = tuple(float(np.nanmean(one)) if not np.isnan(one).all() else float("nan") for one in scores)
    versus = compare(cell, against, metric) if against is not None else None
    return MetricValue(metric, estimate(scores), by_seed, versus)


def mean_text(value: MetricValue) -> str:
    """ "24.1 ± 0.4", the second number a standard error; no second number where it is undefined."""
    if math.isnan(value.mean.mean):
        return "unscored"
    if math.isnan(value.mean.stderr):
        return f"{value.mean.mean:.1f}"
    return f"{value.mean.mean:.1f} ± {value.mean.stderr:.1f}"
