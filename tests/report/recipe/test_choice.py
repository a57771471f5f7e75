"""Which model the first screen names, and what it says of the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import make_run, right_on_some, row_of, with_row

from tutelage.evaluation.records import ExampleRecord
from tutelage.report.numbers import NARROW
from tutelage.report.recipe.choice import Choice, asked, choose, shown
from tutelage.report.recipe.page import build_report
from tutelage.report.recipe.table_files import MARKED, tables_markdown
from tutelage.report.recipe.tables import build_tables
from tutelage.runs.recipe_results import RecipeResults, ResultRow, TrainedModel

COUNT = 40
made = right_on_some


def chosen(results: RecipeResults) -> Choice:
    found = choose(results, build_tables(results))
    assert found is not None
    return dataclasses.replace(found, why=found.why.replace(NARROW, " "))


def sized(results: RecipeResults, **weights: int) -> RecipeResults:
    """Results whose students have so many weights; 100 by default."""
    rows = (dataclasses.replace(row, weights=weights.get(row.stage, 100)) for row in results.rows)
    return dataclasses.replace(results, rows=tuple(rows))


@pytest.mark.slow
def test_of_students_of_one_size_the_highest_score_is_named_though_the_difference_was_not_shown(tmp_path: Path) -> None:
    results = made(tmp_path, {"teacher": 40, "sft": 20, "off_policy": 22, "gkd": 21})
    found = chosen(sized(with_row(with_row(results, "sft", steps=8), "sft_again", steps=16)))
    assert (found.stage, found.use, found.commands) == ("sft_again", "Use SFT again.", ())
    assert found.why.startswith(
        "SFT again scores highest of 3 students of one size, which cost the same to use. But no difference that large "
        "was shown to be more than chance: GKD (SFT-S) and SFT may be as good. SFT is 5.0 below SFT again (95 % "
        "interval −12.5 to 0.0, p = "
    )
    assert found.why.endswith(" after correction for 4 comparisons): no difference was shown.")
    assert "GKD (SFT-S) is" not in found.why  # the verdict says so


def test_how_many_test_rows_would_tell_is_said_whenever_a_difference_is_open(tmp_path: Path) -> None:
    """And not only where a distilled student is one of the two."""
    results = made(tmp_path, {"teacher": 40, "sft": 34, "off_policy": 36, "gkd": 10})
    found = chosen(results)
    assert found.stage == "sft_again"
    assert "It was shown to be better than GKD (SFT-S); SFT may be as good." in found.why
    # 2 of 40 rows differ: the standard error is √(0.05 · 0.95 / 39) = 3.5 points, and 2.8 of them are 9.8
    assert found.next.startswith(
        "To tell SFT again from SFT takes more test rows: these 40 show a difference of 9.8 points four times in five, "
        "and one of 5.0, as here, would take about 160: name a longer file in `data.test` (`tutelage init` splits a "
        "fifth of the rows off, 500 at most). Other training runs (`'seeds=[0,1,2]'` added to the command) would tell "
        "whether it is more than the chance of one training. The teacher scores 100.0 and GKD (SFT-S) 25.0: more may "
        "be learnt from it with more `epochs` and another `learning_rate` in `stages.gkd.training`, or a `search` over "
    )
    several = chosen(dataclasses.replace(results, seeds=(0, 1)))
    assert "500 at most). More seeds would tell" in several.next


def test_a_difference_that_no_test_could_show_is_not_asked_for(tmp_path: Path) -> None:
    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        swaps = {"gkd": (range(19), ()), "sft": (range(18), range(20, 21))}.get(stage, ((), ()))
        right = {*swaps[0], *swaps[1]} if stage != "gkd" else {*range(10), *range(30, 39)}
        return [dataclasses.replace(one, scores=dict.fromkeys(one.scores, float(n in right)))
                for n, one in enumerate(records)]  # fmt: skip

    results = make_run(tmp_path, count=COUNT, change=change)
    rows = [dataclasses.replace(row, runs=row.runs[:1]) for row in results.rows if row.stage in ("sft", "gkd")]
    results = dataclasses.replace(
        results, search=None, seeds=(0,), rows=tuple(rows), tasks={"test": results.tasks["test"]}
    )
    found = chosen(results)
    assert found.why == "SFT and GKD (SFT-S) score alike, highest of 2 students; SFT needs no teacher."
    assert found.next.startswith("SFT and GKD (SFT-S) score alike: these 40 show a difference of ")
    assert (
        " points four times in five, and more test rows would show a smaller one; name a longer file in `data.test` "
        "(`tutelage init` splits a fifth of the rows off, 500 at most). Other training runs (`'seeds=[0,1,2]'` added "
        "to the command) would tell whether they differ by more than the chance of one training."
    ) in found.next


@pytest.mark.slow
def test_a_larger_student_is_named_only_where_it_was_shown_to_be_better(tmp_path: Path) -> None:
    results = made(tmp_path, {"teacher": 40, "sft": 20, "off_policy": 22, "gkd": 24})
    found = chosen(sized(results, gkd=300))
    assert found.stage == "sft_again"
    assert found.why.startswith("SFT again scores highest of 2 students of one size, which cost the same to use. ")
    assert "SFT may be as good. No larger one was shown to be better. " in found.why
    alone = chosen(sized(results, gkd=50))
    assert alone.stage == "gkd"
    assert alone.why.startswith("GKD (SFT-S) is the smallest of 3 students, and no larger one was shown to be better.")
    shown = made(tmp_path / "b", {"teacher": 40, "sft": 20, "off_policy": 22, "gkd": 39})
    found = chosen(sized(shown, gkd=300))
    assert found.stage == "gkd"
    assert found.why.startswith("GKD (SFT-S) was shown to be better than SFT again, the best of the smaller students.")


def test_a_distilled_student_that_is_worse_than_plain_sft_is_not_hidden_behind_a_worse_opponent(tmp_path: Path) -> None:
    """GKD is level with SFT again, so the verdict shows no difference; plain SFT is better than both."""
    found = chosen(made(tmp_path, {"sft": 38, "off_policy": 20, "gkd": 20}))
    assert found.stage == "sft"
    assert "GKD (SFT-S) is 45.0 below SFT (95 % interval " in found.why
    assert found.why.count(": it is worse.") == 2
    keys = "more `epochs` and another `learning_rate` in `stages.gkd.training`, or a `search` over both"
    assert found.next.startswith(
        f"More may be learnt from the teacher with {keys} (docs/recipe.md). A stronger teacher"
    )


def test_a_teacher_that_scores_no_more_than_the_reference_is_named_with_both_numbers(tmp_path: Path) -> None:
    found = chosen(made(tmp_path / "a", {"teacher": 34, "sft": 36, "off_policy": 37, "gkd": 30}))
    assert found.stage == "sft_again"
    assert found.next.endswith(
        " There is little to learn from the teacher on this task: the teacher scores 85.0 and SFT again 92.5. A "
        "stronger teacher, or a task that it does better, comes first."
    )
    shown = chosen(made(tmp_path / "b", {"teacher": 20, "sft": 35, "off_policy": 37, "gkd": 10}))
    assert "stronger teacher" not in shown.next  # a verdict says it
    full = chosen(made(tmp_path / "c", {"teacher": 39, "sft": 37, "off_policy": 39, "gkd": 34}))
    assert full.next.endswith("scores 97.5 and SFT again 97.5. A harder task comes first.")


@pytest.mark.parametrize(("teacher", "reference", "stronger"), [(40, 37, False), (36, 20, False), (24, 23, True)])
def test_a_stronger_teacher_is_named_only_where_this_one_may_be_what_was_short(
    tmp_path: Path, teacher: int, reference: int, stronger: bool
) -> None:
    """Not where it scores as much as the metric can, nor where it was shown to be better than the reference."""
    results = made(tmp_path, {"teacher": teacher, "sft": reference - 1, "off_policy": reference, "gkd": 4})
    found = chosen(results)
    start = f"The teacher scores {2.5 * teacher:.1f} and GKD (SFT-S) 10.0: more may be learnt from it with "
    assert f"{start}more `epochs` and another `learning_rate` in `stages.gkd.training`, or a `search`" in found.next
    assert ("A stronger teacher may help, too: `tutelage forecast`" in found.next) == stronger
    searched = chosen(with_row(results, "gkd", searched=True))
    assert f"{start}a wider `search.grid`: more `epochs` and another `learning_rate`." in searched.next


def test_a_high_score_is_not_taken_for_the_share_of_right_answers(tmp_path: Path) -> None:
    def change(_: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        return [dataclasses.replace(one, scores={"rouge_l": 0.9, "rouge_l_best": 0.9, "exact_match": float(n < 5)})
                for n, one in enumerate(records)]  # fmt: skip

    results = make_run(tmp_path, count=8, change=change)
    test = dataclasses.replace(results.tasks["test"], metrics=("rouge_l", "exact_match"))
    results = dataclasses.replace(results, tasks={"test": test}, search=None)
    said = "Its ROUGE-L of 90.0 is not the share of right answers: its exact match is 62.5."
    assert said in chosen(results).why
    exact = dataclasses.replace(test, headline="exact_match")
    assert "share of right" not in chosen(dataclasses.replace(results, tasks={"test": exact})).why
    alone = dataclasses.replace(test, metrics=("rouge_l",))
    assert "share of right" not in chosen(dataclasses.replace(results, tasks={"test": alone})).why


def test_a_student_that_was_shown_to_be_better_is_named(tmp_path: Path) -> None:
    results = made(tmp_path, {"teacher": 40, "sft": 20, "off_policy": 21, "gkd": 36})
    found = chosen(results)
    assert found.stage == "gkd"
    assert found.why.startswith(
        "GKD (SFT-S) scores highest of 3 students. It was shown to be better than both others. SFT is 40.0 below GKD "
    )
    assert found.why.endswith(": it is worse.")
    assert found.next.startswith("Before you rely on the difference, see whether other training runs show it, too")
    several = chosen(dataclasses.replace(results, seeds=(0, 1)))
    assert several.next == (
        "`tutelage forecast` says from small parts of the rows how the gain changes with their number."
    )


def test_a_task_that_does_not_ask_the_model_to_use_is_passed_over(tmp_path: Path) -> None:
    """Students of one recipe may be asked different tasks, as those of table 2 are."""
    results = made(tmp_path, {"sft": 20, "gkd": 36})
    (table,) = build_tables(results)
    other = dataclasses.replace(table, task="other", rows=tuple(row for row in table.rows if row.stage != "gkd"))
    both = dataclasses.replace(results, tasks={**results.tasks, "other": results.tasks["test"]})
    found = choose(both, [table, other])
    assert found is not None
    assert found.stage == "gkd"


def test_what_a_verdict_says_is_not_said_again(tmp_path: Path) -> None:
    found = chosen(made(tmp_path, {"sft": 20, "gkd": 36}))
    assert found.why == ("GKD (SFT-S) scores highest of 2 students. It was shown to be better than the other.")


@pytest.mark.slow
def test_p_values_are_corrected_for_all_pairs_as_the_best_of_all_is_named(tmp_path: Path) -> None:
    """Five examples more of forty are shown alone, and not among seven comparisons."""
    alone = made(tmp_path / "a", {"sft": 20, "gkd": 25})
    assert "was shown to be better than the other" in chosen(alone).why
    among = made(tmp_path / "b", {"teacher": 40, "sft": 20, "off_policy": 20, "gkd": 25, "gkd_base": 20})
    found = chosen(among)
    assert found.stage == "gkd"
    assert "; SFT and GKD (Base-S) may be as good" in found.why  # the verdict has a p of its own
    assert " after correction for 7 comparisons)" in found.why  # six pairs of students, and the teacher


def test_tables_mark_what_the_sentences_call_shown(tmp_path: Path, undrawn: None) -> None:
    """Five examples more of forty: p < 0.05 alone, and not after the correction that the sentence makes."""
    results = made(tmp_path, {"teacher": 40, "sft": 25, "off_policy": 20, "gkd": 20, "gkd_base": 20})
    tables, found = build_tables(results), chosen(results)
    sft = next(row for row in tables[0].rows if row.stage == "sft").values[0].versus
    assert found.stage == "sft"
    assert sft is not None
    assert sft.p_value < 0.05
    assert sft.low > 0
    assert "SFT again is 12.5 below SFT" in found.why
    apart = "): the interval alone leaves out 0, but after correction no difference was shown"
    assert found.why.count(apart) == found.why.count("95 %") == 3
    assert "leave" not in chosen(made(tmp_path / "same", {"sft": 25, "gkd": 24})).why
    tests = asked(results, tables)
    known = shown(tests)
    pair = ("test", frozenset({"teacher", "sft"}))
    assert pair not in tests  # no sentence is about it
    assert known == {("test", frozenset({"teacher", "sft_again"}))}
    teacher, plain = (line for line in tables_markdown(tables, "", known).splitlines()
                      if line.startswith(("| Teacher", "| SFT |")))  # fmt: skip
    assert (teacher.count("∗"), plain.count("∗")) == (1, 0)  # the headline metric alone
    assert MARKED in tables_markdown(tables, "", known)
    page = build_report(results, tmp_path / "out").read_text(encoding="utf-8")
    assert page.partition('<table class="pairs">')[0].count("<sup") == 1
    assert page.count("∗</sup>") == 9  # and the matrix, from both sides, with the model to use and those it taught
    assert '<span class="untested"' not in page
    assert MARKED.replace("<", "&lt;").replace("'", "&#39;") in page


def test_students_without_training_teachers_and_baselines(tmp_path: Path) -> None:
    results = made(tmp_path, {"lead_1": 40, "teacher": 40, "sft": 20})
    assert chosen(results).why == "SFT is the only trained student with scores."
    base = dataclasses.replace(row_of(results, "lead_1"), kind="model", label="Base student")
    found = chosen(dataclasses.replace(results, rows=(base, *results.rows[1:])))
    assert found.why.startswith("Base student, without any training, scores highest of 2 students. It was shown to be")
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
        ("measure it on a benchmark (needs hub and lm-eval)", f"tutelage evaluate --model {folder} --tasks ifeval"),
        ("take it to llama.cpp and others (needs llama.cpp)", f"tutelage export {folder} --gguf"),
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
    assert found.why.startswith(
        "KD on the data only scores highest of 3 students on average over 2 tasks. It was shown to be better than both "
    )
    assert "SFT is level with KD on the data only on dev (95 % interval 0.0 to 0.0, p = 1.00 after" in found.why
    assert "; 45.0 below KD on the data only on test (95 % interval " in found.why, found.why[300:900]
    both = chosen(dataclasses.replace(results, rows=tuple(row for row in rows if row.stage != "off_policy")))
    assert both.why.startswith(
        "SFT scores highest of 2 students on average over 2 tasks. But no difference that large was shown to be more "
        "than chance: GKD (SFT-S) may be as good. GKD (SFT-S) is 50.0 below SFT on dev"
    )


def test_a_student_that_was_shown_to_be_worse_and_nowhere_better_is_not_named(tmp_path: Path) -> None:
    """However high its average: GKD is 2.5 points worse on 40 rows of dev, each of them, and luckier on test."""

    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        dev = records[0].id == "dialogue_0"
        right = {"gkd": {*range(0 if dev else 38)}, "sft": {*range(0 if dev else 36)}}.get(stage, set())
        more = 0.025 if dev and stage == "sft" else 0.0
        return [dataclasses.replace(one, scores=dict.fromkeys(one.scores, more + float(n in right)))
                for n, one in enumerate(records)]  # fmt: skip

    results = make_run(tmp_path, count=COUNT, change=change)
    rows = [dataclasses.replace(row, runs=row.runs[:1]) for row in results.rows if row.stage in ("sft", "gkd")]
    found = chosen(dataclasses.replace(results, search=None, seeds=(0,), rows=tuple(rows)))
    assert found.stage == "sft"


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
    assert found.why.endswith(" Again is worse. GKD (Base-S) is worse. Worse is worse.")
    level = dataclasses.replace(again, runs=row_of(results, "sft").runs)
    found = chosen(dataclasses.replace(results, rows=(*results.rows, *more, worse, level), reference="again"))
    assert found.why.startswith("SFT and Again score alike, highest of 7 students; SFT is the first in the table. It w")
    assert "; Again may be as good. Again is level with SFT (" in found.why
