from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from fake_run import make_run, row_of, with_row

from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.statistics import Paired, paired_bootstrap
from tutelage.report.comparisons import compare
from tutelage.report.recipe.pairs import Pair, TaskPairs, comparisons, pairs_of
from tutelage.report.recipe.tables import TableRow, TableValue, TaskTable, build_tables
from tutelage.runs.recipe_results import RecipeResults

STAGES = ["teacher", "sft", "gkd", "off_policy", "gkd_base"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecipeResults, TaskTable]:
    results = make_run(tmp_path_factory.mktemp("run"), count=12)
    return results, build_tables(results)[1]


def scores_of(table: TaskTable, stage: str) -> np.ndarray:
    return value_of(next(row for row in table.rows if row.stage == stage)).scores


def value_of(row: TableRow) -> TableValue:
    value = row.value("rouge_l")
    assert value is not None
    return value


def pair_of(task: TaskPairs, left: str, right: str) -> Pair:
    return next(pair for pair in task.pairs if (pair.left.stage, pair.right.stage) == (left, right))


@pytest.mark.slow
def test_every_pair_once_in_row_order_without_baselines(run: tuple[RecipeResults, TaskTable]) -> None:
    pairs = pairs_of(run[1]).pairs
    assert [(pair.left.stage, pair.right.stage) for pair in pairs] == [
        (left, right) for n, left in enumerate(STAGES) for right in STAGES[n + 1 :]
    ]


def test_differences_are_those_of_the_means_and_antisymmetric(run: tuple[RecipeResults, TaskTable]) -> None:
    _, table = run
    task = pairs_of(table)
    for left in task.rows:
        for right in task.rows:
            pair, other = task.cell(left, right), task.cell(right, left)
            if left is right:
                assert pair is None
                continue
            assert pair is not None
            assert other is not None
            by_hand = scores_of(table, left.stage).mean() - scores_of(table, right.stage).mean()
            assert pair.versus.difference == pytest.approx(by_hand)
            assert (pair.left, pair.right) == (left, right)
            assert pair.versus.low <= pair.versus.difference <= pair.versus.high
            assert (other.versus.difference, other.versus.low, other.versus.high, other.versus.p_value) == (
                -pair.versus.difference, -pair.versus.high, -pair.versus.low, pair.versus.p_value)  # fmt: skip


def test_pairs_are_the_paired_bootstrap(run: tuple[RecipeResults, TaskTable]) -> None:
    _, table = run
    task = pairs_of(table)
    gkd, off_policy, teacher = (scores_of(table, stage) for stage in ("gkd", "off_policy", "teacher"))
    found = pair_of(task, "gkd", "off_policy").versus
    assert found == paired_bootstrap(gkd, off_policy, paired_seeds=True)
    assert found != paired_bootstrap(gkd, off_policy)
    assert pair_of(task, "teacher", "gkd").versus == paired_bootstrap(teacher, gkd)
    assert pair_of(task, "teacher", "gkd").seeds == 1
    assert pair_of(task, "gkd", "off_policy").seeds == 3


def test_pairs_with_the_reference_are_those_of_the_table(run: tuple[RecipeResults, TaskTable]) -> None:
    results, _ = run
    shorter = with_row(results, "gkd", runs=row_of(results, "gkd").runs[1:])
    table = build_tables(shorter)[1]  # seeds 1 and 2 against 0, 1, 2: not paired
    rows = {row.stage: row for row in table.rows}
    task = pairs_of(table)
    for stage in ("teacher", "gkd", "off_policy"):
        cell, value = task.cell(rows[stage], rows["sft"]), value_of(rows[stage])
        assert cell is not None
        assert cell.versus == value.versus == compare(value, value_of(rows["sft"]))
    # which the same draws from the other side are not
    other = compare(value_of(rows["sft"]), value_of(rows["gkd"]))
    assert pair_of(task, "sft", "gkd").versus.low != other.low


def test_rows_without_runs_are_left_out_and_unscored_ones_are_not_tested(tmp_path: Path) -> None:
    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        unscored = [dataclasses.replace(record, scores=dict.fromkeys(record.scores)) for record in records]
        return unscored if stage == "off_policy" else records

    results = with_row(make_run(tmp_path, count=4, change=change), "gkd", runs=())
    task = pairs_of(build_tables(results)[1])
    assert [row.stage for row in task.rows] == ["teacher", "sft", "off_policy", "gkd_base"]
    assert len(task.pairs) == 6
    pair = pair_of(task, "teacher", "off_policy")
    assert math.isnan(pair.versus.difference)
    assert not pair.tested
    assert (task.tested, task.by_chance) == (3, pytest.approx(0.15))
    without_reference = pairs_of(build_tables(dataclasses.replace(results, reference=None))[1])
    one, other = (pair_of(found, "sft", "gkd_base").versus for found in (without_reference, task))
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other))


def test_counts_of_comparisons(run: tuple[RecipeResults, TaskTable]) -> None:
    results, table = run
    task = pairs_of(table)
    assert (task.tested, task.by_chance, task.beside_reference) == (10, pytest.approx(0.5), 6)
    assert comparisons([table], [task]) == 5 * 2 + 6
    two = dataclasses.replace(table, rows=table.rows[:3])  # a baseline, the teacher and the reference
    assert not pairs_of(two).worth_showing
    assert comparisons([two], [pairs_of(two)]) == 2 * 2
    no_reference = build_tables(dataclasses.replace(results, reference=None, rows=results.rows[:3]))
    assert comparisons(no_reference, [pairs_of(table) for table in no_reference]) == 0  # the page shows none of them


def test_the_same_row_twice_has_no_negative_zero(run: tuple[RecipeResults, TaskTable]) -> None:
    row = pairs_of(run[1]).rows[0]
    swapped = Pair(row, row, Paired(0.0, 0.0, 0.0, 1.0, 0.0, 12, 0)).swapped().versus
    assert [math.copysign(1, value) for value in (swapped.difference, swapped.low, swapped.high)] == [1, 1, 1]
