"""What a report's tables and figures are made of: evaluation folders read, aligned, averaged and compared.

A *row* is one model or baseline of the manifest, a *cell* is a row on one task: runs of several seeds on the same
examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.evaluate.records import EXAMPLES_FILE, ExampleRecord, read_records, score_array
from tutelage.statistics import Estimate, Paired, Scores, estimate, paired_bootstrap
from tutelage.types import TutelageError

METRIC_LABELS = {
    "rouge_l": "ROUGE-L",
    "rouge_l_best": "ROUGE-L, best reference",
    "exact_match": "exact match",
    "chrf": "chrF2",
}
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Run:
    """One seed's answers; seed None: one run stands for all seeds."""

    seed: int | None
    folder: Path
    records: tuple[ExampleRecord, ...]


@dataclass(frozen=True)
class Cell:
    """A row's runs on one task, their records in the same order."""

    runs: tuple[Run, ...]
    missing: tuple[int | None, ...]  # seeds whose evaluation is not there

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    def scores(self, metric: str) -> Scores:
        """[S, N] in 0..100, nan where unscored; [0, 0] without runs."""
        if not self.runs:
            return np.zeros((0, 0))
        return 100 * np.stack([score_array(run.records, metric) for run in self.runs])


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


def load_scores(manifest: dict[str, Any], row: dict[str, Any], task: str, metric: str) -> Scores:
    """A manifest row's scores on a task, [S, N] in 0..1, aligned by example id; nan where unscored.

    S counts the runs whose evaluation is there ([0, 0] if none is). Raises TutelageError when two folders were not
    made from the same examples, or a folder cannot be read.
    """
    return load_cell(manifest, row, task).scores(metric) / 100


def load_cell(manifest: dict[str, Any], row: dict[str, Any], task: str, like: Run | None = None) -> Cell:
    """Read a row's evaluations of a task, in the example order of `like` or of the first folder found."""
    runs: list[Run] = []
    missing: list[int | None] = []
    for run in row["runs"]:
        name = (run.get("evaluations") or {}).get(task)
        folder = Path(manifest["root"]) / name if name else None
        if folder is None or not (folder / EXAMPLES_FILE).is_file():
            missing.append(run["seed"])
            continue
        found = Run(run["seed"], folder, tuple(read_records(folder)))
        order = like or (runs[0] if runs else found)
        runs.append(_aligned(found, order))
    return Cell(tuple(runs), tuple(missing))


def build_tables(manifest: dict[str, Any]) -> list[TaskTable]:
    """One table a task, every row compared with the reference. Raises TutelageError for an unknown reference."""
    reference = manifest.get("reference")
    stages = [row["stage"] for row in manifest["rows"]]
    if reference is not None and reference not in stages:
        raise TutelageError(f"the reference `{reference}` is no row of the report; choose from: {', '.join(stages)}")
    return [_build_table(manifest, task, spec, reference) for task, spec in manifest["tasks"].items()]


def metric_label(metric: str) -> str:
    return METRIC_LABELS.get(metric, metric)


def number(value: Any) -> str:
    """A setting as people write it: 0.0001 as 1e-4, 6.0 as 6."""
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        if value and not -2 <= int(exponent) < 5:
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{value:g}"
    return str(value)


def compare(left: Cell, right: Cell, metric: str) -> Paired | None:
    """Left minus right in 0..100, or None where either has no runs. Equal lists of seeds are paired."""
    if not left.runs or not right.runs:
        return None
    paired = left.seeds == right.seeds and len(left.seeds) > 1
    return paired_bootstrap(left.scores(metric), right.scores(metric), paired_seeds=paired)


def _build_table(manifest: dict[str, Any], task: str, spec: dict[str, Any], reference: str | None) -> TaskTable:
    cells: dict[int, Cell] = {}
    first: Run | None = None
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


def _aligned(run: Run, order: Run) -> Run:
    """The run with its records in the order of another's. Raises TutelageError unless both hold the same ids."""
    records = {record.id: record for record in run.records}
    wanted = [record.id for record in order.records]
    if len(records) != len(run.records):
        raise TutelageError(f"{run.folder / EXAMPLES_FILE} holds an example id twice; run that evaluation again")
    strange = sorted(set(records) ^ set(wanted))
    if strange:
        here, there = (run, order) if strange[0] in records else (order, run)
        raise TutelageError(
            f"{run.folder} and {order.folder} were not made from the same examples (`{strange[0]}` is in "
            f"{here.folder.name} but not in {there.folder.name}); evaluate both on the same data"
        )
    return Run(run.seed, run.folder, tuple(records[id] for id in wanted))
