"""Every model of a task against every other: the comparisons that a table with one reference leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.evaluation.statistics import SIGNIFICANT, Paired
from tutelage.report.comparisons import compare, swapped
from tutelage.report.recipe.tables import TableRow, TaskTable

# A baseline without a model says nothing about training, and every further comparison may be significant by chance. The
# table has its difference to the reference.
LEFT_OUT = ("baseline",)


@dataclass(frozen=True)
class Pair:
    """Left minus right on the headline metric, in 0..100."""

    left: TableRow
    right: TableRow
    versus: Paired  # all nan with fewer than two examples that are scored in both

    @property
    def tested(self) -> bool:
        """Whether enough examples are scored in both rows."""
        return not math.isnan(self.versus.p_value)

    @property
    def seeds(self) -> int:
        """The smaller number of seeds: with one, the interval does not cover another training run of that row."""
        return min(len(self.left.runs), len(self.right.runs))

    def swapped(self) -> Pair:
        """The same pair with the rows exchanged."""
        return Pair(self.right, self.left, swapped(self.versus))


@dataclass(frozen=True)
class TaskPairs:
    """All pairs of a task's rows; a pair's left row is above its right one in the table."""

    table: TaskTable
    rows: tuple[TableRow, ...]
    pairs: tuple[Pair, ...]

    @property
    def worth_showing(self) -> bool:
        """Whether there are more than two rows; for two, the table says the same."""
        return len(self.rows) > 2

    @property
    def tested(self) -> int:
        """How many pairs were compared."""
        return sum(pair.tested for pair in self.pairs)

    @property
    def by_chance(self) -> float:
        """How many intervals would leave 0 out on average if no two rows differed."""
        return SIGNIFICANT * self.tested

    @property
    def beside_reference(self) -> int:
        """Comparisons that the table does not make already."""
        return sum(pair.tested and not (pair.left.is_reference or pair.right.is_reference) for pair in self.pairs)

    def cell(self, row: TableRow, column: TableRow) -> Pair | None:
        """Row minus column; None on the diagonal."""
        for pair in self.pairs:
            if (pair.left.stage, pair.right.stage) == (row.stage, column.stage):
                return pair
            if (pair.left.stage, pair.right.stage) == (column.stage, row.stage):
                return pair.swapped()
        return None


def pairs_of(table: TaskTable) -> TaskPairs:
    """Every row that has runs against every other, on the headline metric and in row order."""
    rows = tuple(row for row in table.rows if row.runs and row.kind not in LEFT_OUT)
    pairs = tuple(
        Pair(left, right, _versus(left, right, table.headline))
        for place, left in enumerate(rows)
        for right in rows[place + 1 :]
    )
    return TaskPairs(table, rows, pairs)


def comparisons(tables: Sequence[TaskTable], pairs: Sequence[TaskPairs]) -> int:
    """How many tests the page shows: those of the tables and those that only a matrix has."""
    in_tables = sum(value.versus is not None for table in tables for row in table.rows for value in row.values)
    return in_tables + sum(one.beside_reference for one in pairs if one.worth_showing)


def _versus(left: TableRow, right: TableRow, metric: str) -> Paired:
    """The table's own comparison where it has one, so that no page gives two intervals for the same pair."""
    one, other = left.value(metric), right.value(metric)
    assert one is not None  # both rows have runs
    assert other is not None
    if right.is_reference and one.versus:
        return one.versus
    return swapped(other.versus) if left.is_reference and other.versus else compare(one, other)
