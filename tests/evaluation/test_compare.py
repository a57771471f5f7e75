from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binom

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.summary import summarise
from tutelage.evaluation.chance import CHANCE, binomial_tail, chance_warning
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.compare import _paired, compare_folders, edge_bound, table
from tutelage.evaluation.records import ExampleRecord, write_records, write_result
from tutelage.evaluation.statistics import paired_bootstrap


def record(id: str, score: float | None, group: str = "", parts: Sequence[float | None] = ()) -> ExampleRecord:
    listed = tuple({"name": f"part {n}", "scores": {"accuracy": value}} for n, value in enumerate(parts))
    return ExampleRecord(id, "p", "r", ("x",), {"accuracy": score}, "r", "why", True, 1, group, listed)


def write(
    folder: Path,
    records: Sequence[ExampleRecord],
    metrics: Mapping[str, Metric] | None = None,
    task: str = "a_task",
    **more: Any,
) -> Path:
    write_records(folder, records)
    write_result(folder, {**summarise(task, records, metrics or {"accuracy": Metric()}, "accuracy"), **more})
    return folder


def coins(n: int, chance: float, seed: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).random(n) < chance]


def test_losses_are_means_over_tokens_in_nats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the results of held-out runs and in the page of a study."""
    losses, tokens = np.random.default_rng(0).uniform(1, 3, (2, 40)), np.arange(40) + 1
    for side, values in zip("ab", losses, strict=True):
        records = [
            dataclasses.replace(record(f"{n:02}", None), scores={"loss": float(v)}, tokens=int(tokens[n]))
            for n, v in enumerate(values)
        ]
        mean = float(np.average(values, weights=tokens))
        write_records(tmp_path / side, records)
        metrics = {"loss": {"value": mean, "stderr": 0.1}}
        write_result(tmp_path / side, {"task": "held_out", "headline": "loss", "metrics": metrics})
    ((found,),) = [task.metrics for task in compare_folders(tmp_path / "a", tmp_path / "b").tasks]
    means = [float(np.average(values, weights=tokens)) for values in losses]
    assert (found.a, found.b) == pytest.approx(means)
    assert found.difference == pytest.approx(means[0] - means[1])
    off = tokens * (losses[0] - losses[1] - found.difference) / tokens.mean()
    assert found.stderr == pytest.approx(off.std(ddof=1) / math.sqrt(40))
    assert found.low < found.difference < found.high
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert f"{means[0]:.4f}  {means[1]:.4f}" in capsys.readouterr().out


def test_plain_examples_are_the_paired_bootstrap(tmp_path: Path) -> None:
    left, right = coins(300, 0.6, 1), coins(300, 0.4, 2)
    a = write(tmp_path / "a", [record(f"{n:03}", value) for n, value in enumerate(left)])
    # the other folder has its examples in another order
    b = write(tmp_path / "b", [record(f"{n:03}", value) for n, value in reversed(list(enumerate(right)))])
    (task,) = compare_folders(a, b).tasks
    (found,) = task.metrics
    wanted = paired_bootstrap(left, right)
    assert (task.task, task.examples, found.metric, found.dropped) == ("a_task", 300, "accuracy", 0)
    assert found.a == pytest.approx(100 * np.mean(left))
    assert found.b == pytest.approx(100 * np.mean(right))
    assert found.difference == pytest.approx(100 * wanted.difference)
    assert (found.low, found.high) == pytest.approx((100 * wanted.low, 100 * wanted.high), abs=1e-9)
    assert found.p_value == wanted.p_value < 0.001
    assert found.stderr == pytest.approx(100 * wanted.stderr)
    same = compare_folders(a, Path(shutil.copytree(a, tmp_path / "again"))).tasks[0].metrics[0]
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_groups_are_fixed_and_examples_vary_within_them(tmp_path: Path) -> None:
    """Another draw of examples would have the same tasks: the error is that of the paired differences within them."""
    metrics = {
        "accuracy": Metric(fixed_groups=True, equal_groups=True),
        "accuracy_weighted": Metric("accuracy", fixed_groups=True),
    }
    sizes = {"g0": 400, "g1": 100, "g2": 60, "g3": 40}
    names = [(group, n) for group, size in sizes.items() for n in range(size)]
    rng = np.random.default_rng(0)
    scores = [(float(rng.random() < 0.9), float(rng.random() < 0.5)) for _ in names]
    a, b = (
        write(
            tmp_path / side, [record(f"{g}/{n}", one[k], g) for (g, n), one in zip(names, scores, strict=True)], metrics
        )
        for k, side in enumerate("ab")
    )
    equal, weighted = compare_folders(a, b, metrics_of=lambda task: metrics).tasks[0].metrics
    assert (equal.clusters, equal.examples) == (600, 600)
    groups = [np.array([x - y for (g, _), (x, y) in zip(names, scores, strict=True) if g == group]) for group in sizes]
    shares = {"equal": [0.25] * 4, "weighted": [len(d) / 600 for d in groups]}
    for found, share in ((equal, shares["equal"]), (weighted, shares["weighted"])):
        difference = sum(w * d.mean() for w, d in zip(share, groups, strict=True))
        error = math.sqrt(sum(w**2 * d.var(ddof=1) / len(d) for w, d in zip(share, groups, strict=True)))
        assert found.difference == pytest.approx(100 * difference)
        assert found.stderr == pytest.approx(100 * error)
        drawn = sum(w * rng.choice(d, (4000, len(d))).mean(1) for w, d in zip(share, groups, strict=True))
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=0.4)
    result = json.loads((a / "result.json").read_text())["metrics"]
    assert (equal.a, weighted.a) == pytest.approx((result["accuracy"]["value"], result["accuracy_weighted"]["value"]))


@pytest.mark.slow
def test_intervals_of_fixed_tasks_cover_the_truth() -> None:
    """Five tasks of unequal size and difficulty, whose examples are drawn again and again."""
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(5), [80, 100, 60, 120, 90])
    base, effect = rng.uniform(0.2, 0.6, 5), rng.normal(0.03, 0.05, 5)
    covered, names = 0, [str(n) for n in range(len(of))]
    for _ in range(300):
        a, b = rng.random(len(of)) < (base + effect)[of], rng.random(len(of)) < base[of]
        pairs = np.stack([a, b], 1).astype(float)
        _, found = _paired(pairs, np.ones((len(of), 2)), names, [str(group) for group in of], 1000)
        covered += found.low <= effect[of].mean() <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_the_difference_to_a_constant_has_the_results_own_standard_error(tmp_path: Path) -> None:
    metrics = {"accuracy": Metric(fixed_groups=True), "some": Metric("accuracy", of_groups=("g1", "g2"))}
    names = [(f"g{n % 5}", n) for n in range(90) if n % 5 < 4 or n < 30]
    chances = {"g0": 0.2, "g1": 0.5, "g2": 0.6, "g3": 0.9, "g4": 0.4}
    rng = np.random.default_rng(0)
    a = write(tmp_path / "a", [record(f"{n}", float(rng.random() < chances[g]), g) for g, n in names], metrics)
    b = write(tmp_path / "b", [record(f"{n}", 0.0, g) for g, n in names], metrics)
    result = json.loads((a / "result.json").read_text())["metrics"]
    for found in compare_folders(a, b, metrics_of=lambda task: metrics).tasks[0].metrics:
        assert found.difference == pytest.approx(result[found.metric]["value"])
        assert found.stderr == pytest.approx(result[found.metric]["stderr"])


def test_parts_count_singly_and_are_drawn_with_their_example(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a", [record("1", 1, parts=[1, 1, 1]), record("2", 0, parts=[0]), record("3", 1, parts=[1, None])]
    )
    b = write(
        tmp_path / "b", [record("1", 0, parts=[0, 0, 0]), record("2", 1, parts=[1]), record("3", 1, parts=[1, 1])]
    )
    found = compare_folders(a, b).tasks[0].metrics[0]
    assert (found.examples, found.clusters, found.dropped) == (5, 3, 1)
    assert (found.a, found.b, found.difference) == pytest.approx((80, 40, 40))


def test_unscored_examples_are_left_out_on_both_sides(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [record("1", 1), record("2", None), record("3", 0), record("4", 1)])
    b = write(tmp_path / "b", [record("1", 0), record("2", 1), record("3", None), record("4", 1)])
    found = compare_folders(a, b).tasks[0].metrics[0]
    assert (found.a, found.b, found.difference, found.examples, found.dropped) == (100, 50, 50, 2, 2)
    assert "note: a_task accuracy: 2 without a score in a or b left out" in table(compare_folders(a, b))
    c = write(tmp_path / "c", [record(id, None) for id in "1234"])
    one = compare_folders(a, c)
    assert math.isnan(one.tasks[0].metrics[0].difference)
    assert one.as_json()["tasks"][0]["metrics"][0]["p_value"] is None
    assert "unknown" in table(one)
    assert "not corrected" not in table(dataclasses.replace(one, tasks=one.tasks * 2))  # of two that are none


def test_the_same_rows_from_a_file_and_from_memory_are_paired_by_question(tmp_path: Path) -> None:
    def rows(origin: str, scores: Sequence[float], asked: str = "question {}") -> list[ExampleRecord]:
        made = [record(f"{origin}:{n}", score) for n, score in enumerate(scores)]
        return [dataclasses.replace(one, prompt=asked.format(n)) for n, one in enumerate(made)]

    a = write(tmp_path / "a", rows("rows.csv", [1, 0, 0, 1]))
    b = write(tmp_path / "b", rows("data-0f3e.jsonl", [0, 0, 0, 1]))
    ((found,),) = [task.metrics for task in compare_folders(a, b).tasks]
    assert (found.a, found.b, found.examples) == (50, 25, 4)
    for name, other in (
        ("other order", rows("c", [0, 0, 0, 1])[::-1]),
        ("other questions", rows("d", [0] * 4, "and {}?")),
        ("no questions", rows("e", [0] * 4, "")),
    ):
        with pytest.raises(TutelageError, match="8 differ"):
            compare_folders(a, write(tmp_path / name, other))
    nothing = write(tmp_path / "f", rows("f", [0] * 4, ""))
    with pytest.raises(TutelageError, match="8 differ"):  # without a question nothing says that rows are the same
        compare_folders(tmp_path / "no questions", nothing)


def test_other_examples_are_refused_by_name(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [record("1", 1), record("2", 1)])
    for name, records, words in (
        ("fewer", [record("1", 1)], r"`2` is in .*a but not in .*fewer; 1 differ\)"),
        ("more", [record("1", 1), record("2", 1), record("3", 1)], r"`3` is in .*more but not in .*a; 1 differ\)"),
        ("others", [record("1", 1), record("4", 1)], r"`2` is in .*a but not in .*others; 2 differ\)"),
        ("doubled", [record("1", 1), record("1", 1)], "holds an example id twice"),
    ):
        with pytest.raises(TutelageError, match=words):
            compare_folders(a, write(tmp_path / name, records))
    shuffled = [ExampleRecord(**{**vars(record(id, 1)), "references": ("y",)}) for id in "12"]
    with pytest.raises(TutelageError, match="`1` has different targets in the two"):
        compare_folders(a, write(tmp_path / "shuffled", shuffled))
    with pytest.raises(TutelageError, match=r"is an evaluation of a_task and .* of another"):
        compare_folders(a, write(tmp_path / "b", [record("1", 1), record("2", 1)], task="another"))
    with pytest.raises(TutelageError, match=r"holds no evaluation: give a folder with examples\.jsonl"):
        compare_folders(a, tmp_path / "nowhere")


def test_of_one_recipe_the_command_that_scores_the_older_model_on_todays_rows_is_named(tmp_path: Path) -> None:
    old = write(tmp_path / "old", [record("1", 1.0), record("2", 1.0)])
    new = write(tmp_path / "new", [record("2", 1.0), record("3", 1.0)])
    os.utime(old / "result.json", (1, 1))
    for folder in (old, new):
        models = {"model": {"path": f"runs/sft-s0-{folder.name}/model"}}
        (folder / "config.json").write_text(json.dumps({"recipe": "mine", "models": models}))
    task = json.loads((old / "result.json").read_text())["task"]
    for pair in ((old, new), (new, old)):
        with pytest.raises(TutelageError) as error:
            compare_folders(*pair)
        command = f"`tutelage evaluate mine.yaml --model runs/sft-s0-old --tasks {task}`"
        assert str(error.value).endswith(
            f"2 differ); evaluate both with the same data, --limit and --seed: {command} scores the older model on "
            "today's rows; compare the folder that it names"
        )


def test_folders_of_several_tasks(tmp_path: Path) -> None:
    for side, tasks in (("a", ("one", "two", "three")), ("b", ("two", "one", "four"))):
        for task in tasks:
            write(tmp_path / side / task, [record(str(n), float(side == "a")) for n in range(9)], task=task)
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert [task.task for task in found.tasks] == ["one", "two"]
    assert (found.only_a, found.only_b) == (("three",), ("four",))
    narrow = table(found, 60).splitlines()  # the aligned lines have 67 columns
    assert narrow[3:7] == ["one accuracy", "  a: 100.00", "  b: 0.00", "  a − b: +100.00"]
    assert max(map(len, narrow[3:])) <= 80
    assert table(found, 80) == table(found)
    lines = table(found).splitlines()
    assert "a − b" in lines[3]
    assert lines[4].split() == [
        "one",
        "accuracy",
        "100.00",
        "0.00",
        "+100.00",
        *["+100.00", "to", "+100.00"],
        "0.004",  # 2^(1 − 9)
        "9",
    ]
    assert "only in a: three" in lines
    assert "only in b: four" in lines
    assert any(line.startswith("2 comparisons, not corrected") for line in lines)
    with pytest.raises(TutelageError, match="have no task in common"):
        compare_folders(tmp_path / "a", write(tmp_path / "c" / "five", [record("1", 1)], task="five").parent)


def test_the_binomial_tail_is_exact() -> None:
    for hits, n, chance in ((0, 10, 0.25), (3, 10, 0.25), (10, 10, 0.25), (140, 546, 0.25), (1400, 12032, 0.1109)):
        assert binomial_tail(hits, n, chance) == pytest.approx(float(binom.sf(hits - 1, n, chance)), rel=1e-9)
    assert binomial_tail(1, 10, 0.0) == 0
    assert binomial_tail(3, 10, 1.0) == 1


def test_scores_at_chance_level_are_warned_of(tmp_path: Path) -> None:
    scores = {"guessing": 30, "knowing": 45}  # of 100; by guessing 33 or more come with less than 5 %
    a, b = (
        write(tmp_path / name, [record(str(n), float(n < right)) for n in range(100)], chance=25.0)
        for name, right in scores.items()
    )
    (warning,) = compare_folders(a, b).tasks[0].warnings
    assert warning.startswith("a (accuracy) is at chance level: 30.00 with 100 examples, where guessing gives 25.00")
    assert f"warning: a_task: {warning}" in table(compare_folders(a, b))
    assert chance_warning("x", [0.5] * 10, 0.25) is None  # not right or wrong
    assert chance_warning("x", [0.0] * 10, 0.0) is not None
    # a benchmark's own chance, where the result does not say it
    gpqa = write(tmp_path / "gpqa", [record(str(n), float(n < 30)) for n in range(100)], task="gpqa")
    again = Path(shutil.copytree(gpqa, tmp_path / "again"))
    assert len(compare_folders(gpqa, again).tasks[0].warnings) == 2


@pytest.mark.slow
@pytest.mark.parametrize("task", list(CHANCE))
def test_the_benchmarks_chances(task: str, data_folder: Path) -> None:
    items = BENCHMARKS[task].load(data_folder)
    assert CHANCE[task] == pytest.approx(100 * np.mean([item.chance for item in items]), abs=0.01)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", [record(str(n), float(n < 30)) for n in range(40)])
    b = write(tmp_path / "b", [record(str(n), float(n < 10)) for n in range(40)])
    main(["compare", str(a), str(b)])
    assert "a_task  accuracy  75.00  25.00  +50.00" in capsys.readouterr().out
    main(["compare", str(a), str(b), "--json"])
    found = json.loads(capsys.readouterr().out)["tasks"][0]["metrics"][0]
    assert (found["difference"], found["examples"], found["p_value"]) == (50, 40, pytest.approx(0.0002, abs=1e-5))
    with pytest.raises(SystemExit):
        main(["compare", str(a), str(tmp_path / "c")])
    assert capsys.readouterr().err.startswith(f"tutelage: {tmp_path / 'c'} holds no evaluation")


def test_evaluations_of_one_task_are_told_apart_by_their_folders(tmp_path: Path, capsys: Any) -> None:
    for place, chance in (("one", 0.3), ("two", 0.7)):
        for name, task in (("gkd-on-test", "test"), ("sft-on-test", "test"), ("gkd-on-more", "more")):
            write(tmp_path / place / name, [record(f"{n}", v) for n, v in enumerate(coins(30, chance, 1))], task=task)
    tasks = [one.task for one in compare_folders(tmp_path / "one", tmp_path / "two").tasks]
    assert tasks == ["more", "test (gkd-on-test)", "test (sft-on-test)"]
    main(["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    rows = [line for line in capsys.readouterr().out.splitlines() if " accuracy " in line]
    assert len({row.split("  ")[0] for row in rows}) == len(rows) == 3


def test_one_evaluation_compared_with_itself_is_told(tmp_path: Path, capsys: Any) -> None:
    one = write(tmp_path / "runs" / "x", [record("0", 1.0), record("1", 0.0)])
    for a, b in ((one, one), (one.parent, tmp_path / "runs" / "x" / "..")):
        main(["compare", str(a), str(b)])
        assert "warning: a_task: a and b are one evaluation, so all differences are 0\n" in capsys.readouterr().out
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "x").symlink_to(one)
    assert "one evaluation" in compare_folders(one.parent, tmp_path / "link").tasks[0].warnings[0]


@pytest.mark.parametrize(
    ("a", "b", "warning"),
    [
        ({"reading": "one"}, {"reading": "two"}, "scored by different readings"),
        ({"fingerprint": "1_one"}, {"fingerprint": "2_two"}, "scored by different readings"),  # runs of a recipe's task
        ({"reading": "one", "prompt": "{question}"}, {"reading": "one", "prompt": None}, "different prompts"),
        ({"reading": "one", "shots": 3}, {"reading": "one", "shots": 0}, "different numbers of solved examples"),
        ({"reading": "one", "chat": True}, {"reading": "one", "chat": True}, None),
        ({"fingerprint": "1_one"}, {"fingerprint": "2_one"}, None),
    ],
)
def test_another_reading_or_prompt_is_told(
    tmp_path: Path, a: dict[str, Any], b: dict[str, Any], warning: str | None
) -> None:
    left, right = (write(tmp_path / name, [record("0", 1.0)], **more) for name, more in (("a", a), ("b", b)))
    (task,) = compare_folders(left, right).tasks
    assert [warning in text for text in task.warnings] == [True] if warning else task.warnings == ()


@pytest.mark.parametrize("examples", [1, 60, 500])
def test_the_bound_at_an_edge_is_clopper_and_pearsons(examples: int) -> None:
    low = stats.binomtest(examples, examples).proportion_ci(0.90, "exact").low  # one-sided 95 %
    assert edge_bound(100.0, 0.0, examples) == ("≥", pytest.approx(100 * low))
    assert edge_bound(0.0, 0.0, examples) == ("≤", pytest.approx(100 * (1 - low)))
    for mean, error in ((50.0, 0.0), (100.0, 1.0), (100.0, float("nan")), (100.0, None)):
        assert edge_bound(mean, error, examples) is None
