from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fake_run import make_run, row_of, with_row

from tutelage.evaluation.records import ExampleRecord
from tutelage.evaluation.statistics import Paired
from tutelage.report.numbers import decimals, difference_text, interval_text, p_text
from tutelage.report.recipe.tables import TableRow, TableValue, TaskTable, build_tables, metric_value
from tutelage.report.recipe.verdicts import progress_text, searched_tasks, verdicts, yardstick
from tutelage.report.scores import SeedScores
from tutelage.runs.recipe_results import RecipeResults


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecipeResults, list[TaskTable]]:
    results = make_run(tmp_path_factory.mktemp("run"), count=10)
    return results, build_tables(results)


def with_difference(table: TaskTable, versus: Paired | None) -> TaskTable:
    """The table with one distilled row, at 24.1 ± 0.4 and this difference."""
    value = TableValue(metric="rouge_l", value=24.12, stderr=0.41, by_seed=(24.0, 24.1, 24.3), scores=np.zeros((3, 10)),
                       seeds=(0, 1, 2), examples=10, unscored=0, versus=versus)  # fmt: skip
    gkd = next(row for row in table.rows if row.stage == "gkd")
    others = [row for row in table.rows if row.kind != "distill"]
    return dataclasses.replace(table, rows=(*others, dataclasses.replace(gkd, values=(value,))))


def sentence(run: tuple[RecipeResults, list[TaskTable]], *numbers: float) -> tuple[str, str]:
    results, (_, test) = run
    paired = Paired(*numbers, stderr=0.3, examples=10, dropped=0)
    (verdict,) = verdicts(results, [with_difference(test, paired)])
    return verdict.text.replace("\u202f", " "), verdict.tone


def test_helped_hurt_and_not_shown(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    start = "GKD (SFT-S) scores 24.1 ± 0.4 ROUGE-L on test"
    assert sentence(run, 0.8, 0.2, 1.4, 0.01) == (
        f"{start}, 0.8 above SFT (95 % interval 0.2 to 1.4, p = 0.010): distilling helped.",
        "better",
    )
    assert sentence(run, -0.8, -1.4, -0.2, 0.0002) == (
        f"{start}, 0.8 below SFT (95 % interval −1.4 to −0.2, p < 0.001): distilling hurt.",
        "worse",
    )
    assert sentence(run, 0.4, -0.3, 1.1, 0.26) == (
        f"{start}, 0.4 above SFT (95 % interval −0.3 to 1.1, p = 0.26): no difference was shown.",
        "unclear",
    )
    assert sentence(run, 0.0, 0.0, 0.0, 1.0)[0].startswith(f"{start}, level with SFT")


@pytest.mark.parametrize("kind", ["sft", "model"])
def test_a_teacher_that_knows_less_than_the_student_is_named(run, kind: str) -> None:
    results, (_, test) = run
    name = next(row.stage for row in test.rows if row.kind not in ("distill",) and not row.is_reference)
    rows = tuple(dataclasses.replace(row, teacher=name if row.stage == "gkd" else None) for row in results.rows)
    results = dataclasses.replace(results, rows=rows)

    def said(*numbers: float) -> list[str]:
        versus = Paired(*numbers, stderr=0.3, examples=10, dropped=0)
        table = with_difference(test, versus)
        value = table.rows[-1].values
        changed = [dataclasses.replace(r, kind=kind, values=value) if r.stage == name else r for r in table.rows]
        found = verdicts(results, [dataclasses.replace(table, rows=tuple(changed))])
        return [one.text for one in found if one.text.startswith("The teacher")]

    (text,) = said(-0.8, -1.4, -0.2, 0.0002)
    assert "0.8 below SFT on test (95 % interval −1.4 to −0.2, p" in text
    assert "after correction): it has less to teach than the student learns by itself" in text
    advice = "fine-tune it first" if kind == "model" else f"train it longer (`stages.{name}.training.epochs`)"
    assert text.endswith(f"{advice}, or take a larger one.")
    assert said(-0.8, -1.4, 0.2, 0.1) == said(0.8, 0.2, 1.4, 0.01) == []
    assert said(-0.8, -1.4, -0.2, 0.03) == []  # one of two comparisons, GKD's the other


def test_a_number_near_zero_is_not_rounded_to_it(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    text, tone = sentence(run, 0.8, 0.04, 1.56, 0.04)
    assert "0.80 above SFT (95 % interval 0.04 to 1.56, p = 0.040): distilling helped." in text
    assert tone == "better"
    paired = Paired(-0.001, -0.2, 0.2, 0.9, 0.1, 10, 0)
    assert (difference_text(paired), interval_text(paired)) == ("0.00", "−0.20 to 0.20")
    assert p_text(0.0501) == "p\u202f=\u202f0.050"


def test_missing_scores_are_reported(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    results, tables = run
    gkd = row_of(results, "gkd")
    nothing = tuple(dataclasses.replace(run, evaluations={}) for run in gkd.runs)
    without = dataclasses.replace(results, rows=(dataclasses.replace(gkd, runs=nothing),), reference=None)
    (verdict,) = verdicts(results, build_tables(without)[1:])
    assert verdict.text == "GKD (SFT-S) has no test scores yet, so nothing can be said about it."
    partial = dataclasses.replace(gkd, runs=(nothing[0], *gkd.runs[1:]))
    rows = (*(row for row in results.rows if row.kind != "distill"), partial)
    texts = [verdict.text for verdict in verdicts(results, build_tables(dataclasses.replace(results, rows=rows)))]
    assert len(texts) == 1
    assert texts[0].endswith(" GKD (SFT-S) has 2 of 3 seeds so far.")
    no_reference = dataclasses.replace(results, reference=None)
    assert verdicts(no_reference, tables)[0].text.startswith("No reference row is named")
    texts = [verdict.text for verdict in verdicts(results, build_tables(with_row(results, "sft", runs=())))]
    assert all("SFT has no test scores, so no difference to it was tested." in text for text in texts)


def test_progress_is_shown_until_all_is_done(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    assert progress_text(run[0]) == ""
    assert progress_text(dataclasses.replace(run[0], done=3)).startswith("3 of 50 runs are done")


def test_only_tasks_without_a_search_are_judged(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    results, tables = run
    texts = [verdict.text for verdict in verdicts(results, tables)]
    assert len(texts) == 3
    assert all(" on test, " in text for text in texts)
    assert len(verdicts(dataclasses.replace(results, search=None), tables)) == 6
    only = dataclasses.replace(results, tasks={"dev": results.tasks["dev"]})
    *told, warning = verdicts(only, build_tables(only))
    assert len(told) == 3
    assert warning.text.startswith("Settings were chosen on dev, and nothing else is evaluated: searched rows are less")
    assert searched_tasks(only) == ("dev",)  # which the page's tables and figures say too
    assert results.search is not None
    two = dataclasses.replace(results, search=dataclasses.replace(results.search, tasks=("dev", "dev_of_another")))
    assert [
        verdict.text for verdict in verdicts(two, tables)
    ] == texts  # also where stages search on tasks of their own


def test_one_run_each_gets_a_caveat(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    results, _ = run
    rows = tuple(dataclasses.replace(row, runs=row.runs[:1]) for row in results.rows)
    for verdict in verdicts(results, build_tables(dataclasses.replace(results, rows=rows))):
        assert verdict.text.endswith("the interval does not cover another run (seed).")


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ((2.6, 0.2, 5.2), 1),
        ((1.74, 0.09, 3.51), 2),
        ((0.019, 0.011, 0.026), 3),
        ((0.148, 0.131, 0.166), 2),
        ((0.148, 0.141, 0.155), 3),
        ((0.0, 0.0, 0.0), 1),
    ],
)
def test_as_many_decimals_as_an_interval_needs(values: tuple[float, ...], digits: int) -> None:
    assert decimals(values) == digits


def test_verdicts_are_corrected_for_all_that_they_choose_among(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    """p = 0.03 is shown alone, and not among the three distilled rows of the page."""
    results, (_, test) = run
    assert sentence(run, 0.8, 0.1, 1.5, 0.03)[1] == "better"
    paired = Paired(0.8, 0.1, 1.5, 0.03, stderr=0.3, examples=10, dropped=0)
    (row,) = [row for row in with_difference(test, paired).rows if row.stage == "gkd"]
    rows = (*(r for r in test.rows if r.kind != "distill"), row)
    others = tuple(dataclasses.replace(row, stage=f"gkd{n}") for n in range(2))
    found = verdicts(results, [dataclasses.replace(test, rows=(*rows, *others))])
    assert [verdict.tone for verdict in found] == ["unclear"] * 3
    assert "p = 0.090 after correction for 3 comparisons" in found[0].text.replace("\u202f", " ")
    assert found[0].text.endswith("no difference was shown.")


@pytest.mark.slow
def test_the_opponent_is_named_and_a_missing_control_too(run: tuple[RecipeResults, list[TaskTable]]) -> None:
    results, tables = run
    (text,) = yardstick(results, tables)
    assert text.startswith(
        "Distilled models are compared with SFT. The control is missing (SFT, then as much SFT again"
    )
    again = dataclasses.replace(row_of(results, "sft"), stage="sft_again", label="SFT again", control=True)
    more = dataclasses.replace(results, rows=(*results.rows, again))
    (text,) = yardstick(more, build_tables(more))
    assert text.endswith("with SFT, as `compare_to` says; the control of equal training, SFT again, is in the table.")
    fair = dataclasses.replace(more, reference="sft_again")
    (text,) = yardstick(fair, build_tables(fair))
    assert text == (
        "Distilled models are compared with SFT again, which trained on the same data again with a fresh schedule, so "
        "that no gain is that of more steps."
    )
    comma = dataclasses.replace(again, label="SFT, then SFT")  # a label with a comma is quoted within a sentence
    named = dataclasses.replace(fair, rows=(*results.rows, comma))
    assert yardstick(named, build_tables(named))[0].startswith(
        "Distilled models are compared with “SFT, then SFT”, which"
    )
    assert " “SFT, then SFT” (95 % interval " in verdicts(named, build_tables(named))[0].text
    searched = with_row(fair, "gkd", searched=True)
    assert "not searched" in yardstick(searched, build_tables(searched))[0]
    both = with_row(searched, "sft_again", searched=True)  # of which there is no point: a search of other settings
    assert "But 0 settings were tried for it, and 6 for others." in yardstick(both, build_tables(both))[0]
    longer = with_row(with_row(fair, "gkd", steps=1_200), "sft_again", steps=80)
    (text,) = yardstick(longer, build_tables(longer))
    assert text.endswith(
        "with a fresh schedule. But it trained for 80 steps in all, GKD (SFT-S) for 1,200: a gain may be that of more "
        "steps."
    )
    equal = with_row(with_row(fair, "gkd", steps=80), "sft_again", steps=80)
    assert yardstick(equal, build_tables(equal)) == yardstick(fair, build_tables(fair))


def letters(metric: str, right: int, stage: str = "gkd") -> TableRow:
    """A model that gives so many of 100 letters right."""
    scores: list[dict[str, float | None]] = [{metric: float(n < right)} for n in range(100)]
    records = tuple(ExampleRecord(f"{n}", "", "", ("ABCD"[n % 4],), score, None, "", True, 1)
                    for n, score in enumerate(scores))  # fmt: skip
    runs, kind = (SeedScores(0, Path("none"), records),), "distill" if stage == "gkd" else "sft"
    return TableRow(stage, stage.upper(), kind, {}, stage == "sft", runs, (), (metric_value(runs, metric),))


def test_a_task_that_all_can_do_is_named(tmp_path: Path) -> None:
    results = make_run(tmp_path, count=4)
    for right, count in ((94, 0), (95, 1)):
        table = TaskTable("arc", "exact_match", ("exact_match",), (letters("exact_match", 100, "sft"),
                          letters("exact_match", right)))  # fmt: skip
        said = [verdict.text for verdict in verdicts(results, [table])]
        assert sum("every compared model is right 95 times in 100 or more" in text for text in said) == count


@pytest.mark.parametrize("metric", ["exact_match", "final_answer"])
def test_a_task_at_chance_is_left_out(metric: str, tmp_path: Path) -> None:
    """One of four letters: 30 of 100 right where the commonest is 25 say nothing; where GKD has 60, they do."""
    results = make_run(tmp_path, count=4)
    for right, text in ((30, "arc is left out: no model was shown to do better on it than the commonest answer"),
                        (60, "GKD scores 60.0")):  # fmt: skip
        (verdict,) = verdicts(results, [TaskTable("arc", metric, (metric,), (letters(metric, right),))])
        assert verdict.text.startswith(text)
