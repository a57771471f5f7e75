"""Which model the first screen names, and what it says of the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import make_run, row_of, with_row

from tutelage.evaluation.records import ExampleRecord
from tutelage.report.numbers import NARROW
from tutelage.report.recipe.choice import Choice, choose
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import RecipeResults, ResultRow, TrainedModel

COUNT = 40


def made(tmp_path: Path, right: dict[str, int]) -> RecipeResults:
    """Results of one seed whose rows are `right` on so many of 40 examples, the test task alone."""

    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        first = right.get(stage, 0)
        return [
            dataclasses.replace(one, scores=dict.fromkeys(one.scores, float(n < first)))
            for n, one in enumerate(records)
        ]

    found = make_run(tmp_path, count=COUNT, change=change)
    rows = []
    for row in found.rows:
        if row.stage in right:
            taught = "teacher" if row.kind == "distill" else None
            rows.append(dataclasses.replace(row, runs=row.runs[:1], teacher=taught))
    again = dataclasses.replace(row_of(found, "off_policy"), stage="sft_again", label="SFT again", kind="sft",
                                control=True)  # fmt: skip
    again = dataclasses.replace(again, runs=again.runs[:1])
    rows += [again] if "off_policy" in right else []
    rows = [row for row in rows if row.stage != "off_policy"]
    reference = "sft_again" if "off_policy" in right else "sft"
    tasks = {"test": found.tasks["test"]}
    return dataclasses.replace(found, seeds=(0,), tasks=tasks, search=None, rows=tuple(rows), reference=reference)


def chosen(results: RecipeResults) -> Choice:
    found = choose(results, build_tables(results))
    assert found is not None
    return dataclasses.replace(found, why=found.why.replace(NARROW, " "))


def test_without_a_difference_the_simplest_student_is_named(tmp_path: Path) -> None:
    results = made(tmp_path, {"teacher": 40, "sft": 20, "off_policy": 22, "gkd": 22})
    steps = with_row(with_row(with_row(results, "sft", steps=8), "sft_again", steps=16), "gkd", steps=16)
    found = chosen(steps)
    assert (found.stage, found.use, found.commands) == ("sft", "Use SFT.", ())
    assert found.why.startswith(
        "SFT is the simplest of 3 trained students (no teacher, 8 steps), and none was shown to be better. GKD (SFT-S) "
        "is 5.0 above SFT (95 % interval 0.0 to 12.5, p = "
    )
    assert " after correction for 4 comparisons): no difference was shown. SFT again is 5.0 above SFT" in found.why
    assert found.next == (
        "To show a difference that may be there: more test rows (these 40 would show one of 9.8 points four times in "
        "five) and other training runs (`'seeds=[0,1,2]'` added to the command)."
    )


def test_a_distilled_student_that_is_worse_than_plain_sft_is_not_hidden_behind_a_worse_opponent(tmp_path: Path) -> None:
    """GKD is level with SFT again, so the verdict shows no difference; plain SFT is better than both."""
    found = chosen(made(tmp_path, {"sft": 38, "off_policy": 20, "gkd": 20}))
    assert found.stage == "sft"
    assert "GKD (SFT-S) is 45.0 below SFT (95 % interval " in found.why
    assert found.why.count(": it is worse.") == 2
    assert found.next.startswith("Distilling may do better with a stronger teacher or more rows: `tutelage forecast`")


def test_a_student_that_was_shown_to_be_better_is_named(tmp_path: Path) -> None:
    results = made(tmp_path, {"teacher": 40, "sft": 20, "off_policy": 21, "gkd": 36})
    found = chosen(results)
    assert found.stage == "gkd"
    assert found.why.startswith("GKD (SFT-S) was shown to be better than SFT, the simplest of 3 trained students")
    assert "GKD (SFT-S) is 40.0 above SFT (95 % interval " in found.why
    assert ": it is better. SFT again is 2.5 above SFT" in found.why
    assert found.next.startswith("Before you rely on the difference, see whether other training runs show it, too")
    several = chosen(dataclasses.replace(results, seeds=(0, 1)))
    assert several.next.startswith("More rows may add to it: `tutelage forecast` says so")


def test_what_a_verdict_says_is_not_said_again(tmp_path: Path) -> None:
    found = chosen(made(tmp_path, {"sft": 20, "gkd": 36}))
    assert found.why == (
        "GKD (SFT-S) was shown to be better than SFT, the simplest of 2 trained students (no teacher)."
    )


def test_p_values_are_corrected_for_all_that_is_compared(tmp_path: Path) -> None:
    """Six examples more of forty are p = 0.03 alone, and not shown among three comparisons."""
    alone = made(tmp_path / "a", {"sft": 20, "gkd": 26})
    assert chosen(alone).stage == "gkd"
    among = made(tmp_path / "b", {"teacher": 40, "sft": 20, "off_policy": 20, "gkd": 24, "gkd_base": 24})
    found = chosen(among)
    assert found.stage == "sft"
    assert " after correction for 6 comparisons)" in found.why  # two verdicts, the teacher, three others against SFT


def test_students_without_training_teachers_and_baselines(tmp_path: Path) -> None:
    results = made(tmp_path, {"lead_1": 40, "teacher": 40, "sft": 20})
    assert chosen(results).why == "SFT is the only trained student with scores."
    base = dataclasses.replace(row_of(results, "lead_1"), kind="model", label="Base student")
    found = chosen(dataclasses.replace(results, rows=(base, *results.rows[1:])))
    assert found.why.startswith("Base student, without any training, was shown to be better than SFT, the trained stu")
    assert found.next == ""
    nothing = dataclasses.replace(
        results, rows=tuple(row for row in results.rows if row.stage != "sft"), reference=None
    )
    assert choose(nothing, build_tables(nothing)) is None


@pytest.mark.parametrize("links", [True, False])
def test_the_models_folder_is_named_where_it_leads_to_the_model(tmp_path: Path, links: bool) -> None:
    results = made(tmp_path / "x", {"sft": 20, "gkd": 20})
    models = []
    for stage in ("sft", "gkd"):
        run: Any = SimpleNamespace(
            folder=tmp_path / "runs" / f"{stage}-s0-1", done=True, kind={"gkd": "distill"}.get(stage, "sft")
        )
        (run.folder / "model").mkdir(parents=True)
        (run.folder / "model" / "config.json").write_text("{}")
        models.append(TrainedModel(stage, row_of(results, stage).label, None, run, {}))
    results = dataclasses.replace(results, models=tuple(models))
    runs, folder = tmp_path / "runs" / "sft-s0-1", tmp_path / "models" / "mini-sft"
    assert chosen(results).use == f"Use `{runs}`."
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("of another recipe")
    assert chosen(results).use == f"Use `{runs}`."
    if links:
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(runs / "model" / "config.json")
    else:
        (folder / "where.txt").write_text("../../runs/sft-s0-1/model\n")
    found = chosen(results)
    assert found.use == f"Use `{folder}`."
    other = tmp_path / "runs" / "gkd-s0-1"
    assert found.commands == (
        ("talk to it", f"tutelage chat {folder}"),
        ("talk to GKD (SFT-S) beside it", f"tutelage chat {folder} {other}"),
        ("measure it on a benchmark of the hub", f"tutelage evaluate --model {folder} --tasks ifeval"),
        ("take it to llama.cpp and others", f"tutelage export {folder} --gguf"),
    )
    several = [dataclasses.replace(model, seed=seed) for seed in (0, 1) for model in models]
    assert chosen(dataclasses.replace(results, models=tuple(several))).use == f"Use `{runs}` (one of 2 seeds)."


def test_on_several_tasks_a_student_that_is_better_on_one_and_worse_on_another_is_not_named(tmp_path: Path) -> None:
    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        right = {"gkd": (38, 10), "sft": (20, 30), "off_policy": (38, 30)}.get(stage, (0, 0))
        first = right[records[0].id == "dialogue_0"]
        return [dataclasses.replace(one, scores=dict.fromkeys(one.scores, float(n < first))) for n, one in
                enumerate(records)]  # fmt: skip

    results = make_run(tmp_path, count=COUNT, change=change)
    rows: list[ResultRow] = [dataclasses.replace(row, runs=row.runs[:1]) for row in results.rows]
    rows = [row for row in rows if row.stage in ("gkd", "sft", "off_policy")]
    results = dataclasses.replace(results, search=None, seeds=(0,), rows=tuple(rows), reference=None)
    found = chosen(results)
    assert found.stage == "off_policy"
    assert "KD on the data only is level with SFT on dev (95 % interval 0.0 to 0.0, p = 1.00 after" in found.why
    assert "GKD (SFT-S) is 50.0 below SFT on dev (95 % interval −65.0 to −35.0, p < 0.001): it is worse; " in found.why
    assert found.why.endswith("45.0 above SFT on test (95 % interval 30.0 to 60.0, p < 0.001): it is better.")
    both = chosen(dataclasses.replace(results, rows=tuple(row for row in rows if row.stage != "off_policy")))
    assert both.why.startswith(
        "SFT is the simplest of 2 trained students (no teacher), and none was shown to be better without being worse "
        "on another task. GKD (SFT-S) is 50.0 below SFT on dev"
    )


def test_of_many_students_the_first_are_spoken_of_at_length(tmp_path: Path) -> None:
    results = made(tmp_path, {"sft": 38, "gkd": 30, "gkd_base": 20})
    gkd, base = row_of(results, "gkd"), row_of(results, "gkd_base")
    more = [dataclasses.replace(gkd, stage=f"gkd{n}", label=f"GKD {n}") for n in range(2)]
    worse = dataclasses.replace(base, stage="worse", label="Worse")
    again = dataclasses.replace(row_of(results, "sft"), stage="again", label="Again", runs=gkd.runs)
    rows = (*results.rows, *more, worse, again)
    found = chosen(dataclasses.replace(results, rows=rows, reference="again"))
    assert found.stage == "sft"
    assert found.why.count("95 % interval") == 3
    assert found.why.endswith(" GKD 1 is worse. Worse is worse. Again is worse.")
    level = dataclasses.replace(again, runs=row_of(results, "sft").runs)
    found = chosen(dataclasses.replace(results, rows=(*results.rows, *more, worse, level), reference="again"))
    assert found.why.endswith(" Worse is worse. No difference to 1 more was shown.")
