"""The tables of a recipe's report: one per task, one row per model or baseline, each compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.common.errors import TutelageError
from tutelage.evaluation.records import score_array
from tutelage.evaluation.statistics import Paired, estimate
from tutelage.report.comparisons import compare
from tutelage.report.numbers import number
from tutelage.report.scores import MetricValue, SeedScores, read_seeds, seeds_text

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults, ResultRow, ResultTask


@dataclass(frozen=True, kw_only=True)
class TableValue(MetricValue):
    """One number of a table, in 0..100."""

    unscored: int  # examples without a score in at least one seed
    versus: Paired | None = None  # against the reference; None for the reference itself, or where it has no scores


@dataclass(frozen=True)
class TableRow:
    """One model or baseline of the recipe, evaluated on one task."""

    stage: str
    label: str
    kind: str
    chosen: dict[str, Any]  # settings
    is_reference: bool
    runs: tuple[SeedScores, ...]  # seeds that are evaluated, their records in the same order
    missing: tuple[int | None, ...]  # seeds that are not
    values: tuple[TableValue, ...]  # one per metric; empty without runs

    @property
    def examples(self) -> int:
        """Number of examples per seed."""
        return len(self.runs[0].records) if self.runs else 0

    @property
    def cut_share(self) -> float:
        """Share of responses that hit the length limit."""
        flags = [not record.finished for run in self.runs for record in run.records]
        return sum(flags) / len(flags) if flags else 0.0

    @property
    def mean_tokens(self) -> float:
        """Mean length of the responses, in tokens."""
        counts = [record.tokens for run in self.runs for record in run.records]
        return sum(counts) / len(counts) if counts else 0.0

    @property
    def seeds_text(self) -> str:
        return seeds_text(tuple(run.seed for run in self.runs), self.missing)

    @property
    def chosen_text(self) -> str:
        return ", ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in self.chosen.items())

    def value(self, metric: str) -> TableValue | None:
        return next((value for value in self.values if value.metric == metric), None)


@dataclass(frozen=True)
class TaskTable:
    """One task's rows and metrics; `headline` is the metric that figures and sentences are about."""

    task: str
    headline: str
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def reference(self) -> TableRow | None:
        return next((row for row in self.rows if row.is_reference), None)

    @property
    def has_chosen(self) -> bool:
        """Whether a search chose settings of any row."""
        return any(row.chosen for row in self.rows)


def how_made(row: ResultRow) -> str:
    """A few words on what a row is: what it began with, and what its stage did."""
    if row.start is None:
        return "" if row.kind == "baseline" else "as it is, before training"
    data = " and ".join(row.data)
    done = {
        "sft": f"fine-tuned on {data}",
        "distill": f"distilled from {row.teacher} on {data}",
        "seqkd": f"fine-tuned on answers of {row.teacher} to {data}",
    }
    return f"{row.start}, then {done.get(row.kind, f'trained with {row.teacher} on {data}')}"


def build_tables(results: RecipeResults) -> list[TaskTable]:
    """One table per task, from the evaluations that are there.

    Raises TutelageError for an unknown reference, a folder that cannot be read, or evaluations of one task that are not
    of the same examples.
    """
    stages = [row.stage for row in results.rows]
    if results.reference is not None and results.reference not in stages:
        raise TutelageError(
            f"the reference `{results.reference}` is not a row of the report; choose from: {', '.join(stages)}"
        )
    return [_build_table(results, name, task) for name, task in results.tasks.items()]


def metric_value(runs: Sequence[SeedScores], metric: str, reference: MetricValue | None = None) -> TableValue:
    """The metric of a row's evaluations, compared with the reference's where there is one."""
    scores_SN = 100 * np.stack([score_array(run.records, metric) for run in runs])
    mean = estimate(scores_SN)
    value = TableValue(
        metric=metric,
        value=mean.mean,
        stderr=mean.stderr,
        by_seed=tuple(float(np.nanmean(one)) if not np.isnan(one).all() else float("nan") for one in scores_SN),
        scores=scores_SN,
        seeds=tuple(run.seed for run in runs),
        examples=len(runs[0].records),
        unscored=mean.dropped,
    )
    return value if reference is None else replace(value, versus=compare(value, reference))


def _build_table(results: RecipeResults, name: str, task: ResultTask) -> TaskTable:
    listed = [row for row in results.rows if task.rows is None or row.stage in task.rows]
    reference = task.reference or results.reference
    runs: dict[str, tuple[SeedScores, ...]] = {}
    first: SeedScores | None = None
    for row in listed:
        folders = [(run.seed, run.evaluations[name]) for run in row.runs if name in run.evaluations]
        runs[row.stage] = read_seeds(folders, first)
        first = first or next(iter(runs[row.stage]), None)
    base = {metric: metric_value(own, metric) for metric in task.metrics if (own := runs.get(reference or ""))}
    rows = []
    for row in listed:
        own, is_reference = runs[row.stage], row.stage == reference
        there = {run.seed for run in own}
        against = {} if is_reference else base
        rows.append(
            TableRow(
                stage=row.stage,
                label=row.label,
                kind=row.kind,
                chosen=row.chosen,
                is_reference=is_reference,
                runs=own,
                missing=tuple(run.seed for run in row.runs if run.seed not in there),
                values=tuple(metric_value(own, metric, against.get(metric)) for metric in task.metrics) if own else (),
            )
        )
    return TaskTable(name, task.headline, task.metrics, tuple(rows))
