"""Scores on the rows of a task that are new: those whose question is neither in what models are trained or settings are
chosen on, nor nearly. Read from the stored scores, example by example; no sentence compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tutelage.report.labels import metric_label
from tutelage.report.numbers import score_text
from tutelage.report.recipe.tables import TableRow, TableValue, TaskTable, metric_value

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults

FEWEST = 20  # new rows; with fewer, a score would say next to nothing


@dataclass(frozen=True)
class NewRows:
    """The new rows of a task, of which some are not new."""

    task: str
    metric: str
    new: int
    rows: int  # of the task
    scores: tuple[tuple[TableRow, TableValue], ...]  # of models that are evaluated, on the new rows; empty for too few

    @property
    def text(self) -> str:
        """What there is to say, without the scores."""
        few = "" if self.scores else ": too few for a score of their own"
        return (
            f"task `{self.task}`: {self.new:,} of the {self.rows:,} questions {'is' if self.new == 1 else 'are'} new, "
            f"neither equal nor nearly equal to one that models are trained or settings are chosen on{few}"
        )

    @property
    def note(self) -> str:
        """The same with the scores, in one line."""
        each = ", ".join(f"{row.label} {score_text(value)}" for row, value in self.scores)
        return f"{self.text}; {metric_label(self.metric)} on these: {each}" if each else self.text


def new_rows(results: RecipeResults, tables: Sequence[TaskTable]) -> list[NewRows]:
    """One per task that has rows which are not new, and evaluations."""
    found = []
    for table in tables:
        known, first = results.known_rows.get(table.task), next((row for row in table.rows if row.runs), None)
        if known and first is not None:
            new = sum(record.id not in known for record in first.runs[0].records)
            enough = [row for row in table.rows if row.runs] if new >= FEWEST else []
            scores = tuple((row, _score(row, table.headline, known)) for row in enough)
            found.append(NewRows(table.task, table.headline, new, first.examples, scores))
    return found


def _score(row: TableRow, metric: str, known: frozenset[str]) -> TableValue:
    runs = [replace(run, records=tuple(one for one in run.records if one.id not in known)) for run in row.runs]
    return metric_value(runs, metric)
