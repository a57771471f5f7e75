"""Slices, metrics and lengths that fit."""

from __future__ import annotations

from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message
from tutelage.start.files import Form
from tutelage.start.look import Lengths, Look
from tutelage.start.models import Cut, Pair
from tutelage.start.propose import fitting_metrics, propose, slices


@pytest.mark.parametrize(
    ("rows", "split", "sizes"),
    [
        (300, ["test", "dev"], {"test": 60, "dev": 30, "train": 210}),
        (20, ["test", "dev"], {"test": 4, "dev": 2, "train": 14}),
        (100_000, ["dev"], {"dev": 100, "train": 99_900}),
        (100_000, ["test"], {"test": 500, "train": 99_500}),
        (50, [], {"train": 50}),
    ],
)
def test_slices(rows: int, split: list[str], sizes: dict[str, int]) -> None:
    assert slices(rows, split) == sizes


@pytest.mark.parametrize(
    ("answers", "references", "metrics"),
    [
        (["yes", "no", "yes"], 0, ["exact_match", "rouge_l"]),
        (["So the answer is 4.", "Then the answer is 5."], 0, ["final_answer", "rouge_l"]),
        (["2 x oak chairs | Klara | Thursday"] * 3, 0, ["exact_match", "rouge_l"]),
        (
            ["a sentence of about twice eight words is this, and not to be told word for word"] * 3,
            2,
            ["rouge_l_best", "exact_match"],
        ),
        (["word " * 80], 0, ["rouge_l"]),
        (["今日は天気がいいですね"] * 3, 0, ["chrf", "exact_match"]),
        (["Привет, как дела " * 20], 0, ["chrf"]),
    ],
)
def test_metrics_fit_the_answers(answers: list[str], references: int, metrics: list[str]) -> None:
    assert fitting_metrics(answers, references)[0] == metrics


def proposed(
    lengths: list[int],
    prompts: list[int],
    context: int | None = None,
    rows: int = 400,
    student: str | Cut = "s/s",
    questions: int = 1,
) -> dict[str, Any]:
    asked = [Message("user", f"Q{n}") for n in range(questions)]
    each = [Conversation("r", (question, Message("assistant", "A"))) for question in asked]
    made = tuple(each[n % questions] for n in range(rows))
    look = Look("train", ("x.jsonl",), Form({}, ""), rows, (), made)
    answers = tuple(max(1, w - p) for w, p in zip(lengths, prompts, strict=True))
    sizes = Lengths(tuple(lengths), tuple(prompts), answers, True)
    return propose("x", {"train": look}, {"train": "x.jsonl"}, sizes, Pair("t/t", student, None, context)).content


def test_slices_of_one_file_are_drawn_by_the_questions_unless_too_many_are_one() -> None:
    content = proposed([50], [40], questions=400)
    assert [content["data"][name].get("order") for name in ("train", "dev", "test")] == ["question"] * 3
    assert (content["data"]["dev"]["skip"], content["data"]["dev"]["size"]) == (80, 40)
    assert "order" not in proposed([50], [40], questions=1)["data"]["test"]


def test_max_length_holds_all_rows_unless_few_are_far_longer() -> None:
    assert proposed([100] * 99 + [140], [50] * 100)["training"]["max_length"] == 192
    assert proposed([100] * 199 + [5000], [50] * 200)["training"]["max_length"] == 128
    # A row whose prompt is too long would be left out, which `max_bad_rows` must allow.
    content = proposed([1000] * 100, [600] * 95 + [900] * 5, context=800)
    assert content["training"]["max_length"] == 800
    assert content["data"]["train"]["max_bad_rows"] == 0.06
    with pytest.raises(TutelageError, match="20 of 100 prompts have more than the 800 tokens"):
        proposed([1000] * 100, [600] * 80 + [900] * 20, context=800)


@pytest.mark.slow
def test_batches_grow_with_the_rows() -> None:
    found = [proposed([100] * 9, [50] * 9, rows=n)["training"] for n in (100, 2000, 20_000, 200_000)]
    assert [one["batch_size"] for one in found] == [8, 16, 32, 128]
    assert [one["epochs"] for one in found] == [3, 2, 2, 2]


def test_the_built_in_student_trains_a_time_less_and_its_stages_have_their_own_settings() -> None:
    """docs/start.md says so."""
    own = {"gkd": {"learning_rate": 6e-4}}
    cut = Cut("heal", [{"name": "heal"}], "heal", "", 320, {"learning_rate": 4e-4}, own)
    found = {n: proposed([100] * 9, [50] * 9, rows=n, student=cut) for n in (300, 2000)}
    assert [one["training"]["epochs"] for one in found.values()] == [2, 1]
    stages = {stage["name"]: stage.get("training") for stage in found[300]["stages"]}
    assert stages == {**dict.fromkeys(("heal", "teacher_sft", "sft", "sft_again", "scores")), **own}
    assert found[300]["data"]["heal"]["size"] == 320
