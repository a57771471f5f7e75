"""MMLU-Pro, GPQA and ARC: letters read from replies, prompts, and numbers by group."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from tiny_benchmarks import item_of, scored, write_data

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.evaluation.benchmarks.gpqa import seal, unseal
from tutelage.evaluation.benchmarks.mmlu_pro import official

LETTER_REPLIES = [
    ("The answer is (B).", "B"),
    ("I think that the answer is B, for it is large.", "B"),
    ("$\\boxed{B}$", "B"),
    ("It must be (B)", "B"),
    ("The answer is (B). So the answer is (B).", "B"),
    ("The answer is (A). No, the answer is (B).", "B"),
    ("the answer is b", "B"),
    ("Answer: B.", "B"),
    ("I do not know.", None),
    ("", None),
]


@pytest.mark.parametrize(("reply", "answer"), LETTER_REPLIES)
@pytest.mark.parametrize(("name", "id"), [("mmlu_pro", "11"), ("gpqa", "rec2"), ("arc_challenge", "Q_2")])
def test_letters_of_every_multiple_choice(data: Path, name: str, id: str, reply: str, answer: str | None) -> None:
    record = scored(name, data, id, reply)
    assert record.answer == answer
    assert record.scores["accuracy"] == float(record.references[0] == answer)


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("The answer is (B).", (1, 1, 1)),
        ("The answer is (A). No, the answer is (B).", (1, 0, 0)),  # the official script takes the first
        ("Answer: B", (1, 1, 0)),
        ("Answer: A, or rather Answer: B", (1, 1, 0)),  # of one line it takes the last
        ("I do not know about Bonn", (0, 1, 0)),  # and in the end any capital letter
    ],
)
def test_mmlu_pro_is_read_three_ways(data: Path, reply: str, scores: tuple[int, int, int]) -> None:
    found = scored("mmlu_pro", data, "11", reply).scores
    assert (found["accuracy"], found["accuracy_official"], found["accuracy_lm_eval"]) == scores


def test_the_official_patterns_of_mmlu_pro_are_searched_in_linear_time() -> None:
    """The same letters as the script's own patterns, on all that these pieces make."""
    patterns = (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])", r"([A-J])(?=[^A-J]*$)")
    pieces = ("answer: ", "Answer:", "A", "B", "\n", " ", "answer is (", "answer is ", "x", "Z", ": ", "nswer:")
    chance = random.Random(0)
    for _ in range(5000):
        reply = "".join(chance.choices(pieces, k=chance.randrange(12)))
        found = (re.search(pattern, reply) for pattern in patterns)
        assert official(reply) == next((match[1] for match in found if match), None), reply
    assert official("no answer " * 300_000) is None  # the second pattern, unchanged, would take forever


def test_mmlu_pro_prompt_and_numbers(data: Path) -> None:
    bench = BENCHMARKS["mmlu_pro"]
    items = bench.load(data)
    text = bench.prompt(items[1], chat=False, shots=5).text
    assert text.startswith("The following are multiple choice questions (with answers) about math. Think step by step")
    assert text.count("The answer is (A).") == 5
    assert text.endswith("J. 12\nAnswer: Let's think step by step.")
    replies = {"10": Reply("The answer is (B)."), "11": Reply("The answer is (A)."), "12": Reply("The answer is (B).")}
    result = bench.summarise(bench.score(items, replies))
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(200 / 3)
    sums = (1 / 3, 1 / 3 - 2 / 3)  # deviations summed over physics and over math
    assert result["metrics"]["accuracy"]["stderr_tasks"] == pytest.approx(
        100 * (2 * (sums[0] ** 2 + sums[1] ** 2)) ** 0.5 / 3
    )
    assert result["groups"]["math"]["value"] == pytest.approx(50.0)


def test_mmlu_pro_scores_without_its_validation_file(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    (data / "mmlu_pro/mmlu_pro_validation.jsonl").unlink()
    assert scored("mmlu_pro", data, "10", "The answer is (B).").scores["accuracy"] == 1


def test_gpqa_options_follow_the_seed_and_its_parts_are_reported(data: Path) -> None:
    bench = BENCHMARKS["gpqa"]
    orders = {tuple(item.row["choices"]) for seed in range(20) for item in bench.load(data, seed=seed)[:1]}
    assert len(orders) > 10
    items = bench.load(data)
    assert [item.group for item in items] == ["main", "diamond", "extended"]
    for item in items:
        assert item.row["choices"]["ABCD".index(item.targets[0])] == f"right {item.id}"
    replies = {item.id: Reply(f"The answer is ({item.targets[0] if item.id != 'rec1' else 'Z'}).") for item in items}
    result = bench.summarise(bench.score(items, replies))
    values = {name: round(entry["value"], 6) for name, entry in result["groups"].items()}
    assert values == {"extended": round(200 / 3, 6), "main": 50.0, "diamond": 100.0}
    assert [entry["n"] for entry in result["groups"].values()] == [3, 2, 1]


def test_gpqa_texts_are_sealed_and_read_back() -> None:
    text = "Which one? \u2028 \ud83d\ude00 \udc80"
    assert seal(text).startswith("sealed:")
    assert "Which" not in seal(text)
    assert unseal(seal(text)) == text
    assert unseal("plain") == "plain"
    assert seal(seal(text)) == seal(text)


@pytest.mark.slow
def test_gpqa_from_the_encrypted_archive(data_folder: Path) -> None:
    items = BENCHMARKS["gpqa"].load(data_folder)
    assert len(items) == 546
    assert [sum(item.group in groups for item in items) for groups in (("main", "diamond"), ("diamond",))] == [448, 198]
    assert sum(len(item.row["choices"]) == 4 for item in items) == 546
    assert {item.targets[0] for item in items} == set("ABCD")


def test_an_exchanged_archive_of_gpqa_is_read_anew(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    assert [item.id for item in BENCHMARKS["gpqa"].load(data)] == ["rec1", "rec2", "rec3"]
    before = (data / "gpqa/dataset.zip").read_bytes()
    (data / "gpqa/dataset.zip").write_bytes(before.replace(b"rec1", b"rec9"))
    with pytest.raises(TutelageError, match=r"gpqa_extended\.csv cannot be read"):  # a wrong checksum
        BENCHMARKS["gpqa"].load(data)


def test_arc_lists_every_option_and_turns_digits_into_letters(data: Path) -> None:
    bench = BENCHMARKS["arc_challenge"]
    item = item_of(bench, data, "Q_2")
    assert item.targets == ("B",)
    prompt = bench.prompt(item, chat=True, shots=0)
    assert prompt.messages[0].content.startswith(
        "Given the following question and five candidate answers (A, B, C, D and E)"
    )
    assert "\nE. Oil\n" in prompt.messages[0].content
    assert prompt.messages[0].content.endswith("where the [the_answer_letter] is one of A, B, C, D or E.")
    assert prompt.prefix == "The best answer is"
    assert bench.prompt(item, chat=False, shots=0).text.endswith("or E. The best answer is")
    assert bench.options(item)[1] == ("Question: What do plants need?\nAnswer:", " Light")


def test_arc_by_likelihood(data: Path) -> None:
    bench = BENCHMARKS["arc_challenge"]
    item = item_of(bench, data, "Q_1")  # Heat, Cold, Dark, Noise
    record = bench.score([item], {"Q_1": Reply(" A.", likelihoods=(-4.1, -5.0, -5.0, -4.0))})[0]
    assert record.scores["accuracy"] == 1
    assert record.scores["accuracy_lm_eval"] == 1
    assert record.scores["accuracy_likelihood"] == 0  # the last is likeliest
    assert record.scores["accuracy_likelihood_norm"] == 0  # −4.1/4 against −4.0/5
    without = bench.summarise(bench.score([item], {"Q_1": Reply(" A.")}))
    assert list(without["metrics"]) == ["accuracy", "accuracy_lm_eval"]
