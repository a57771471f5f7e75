"""BBH: how replies are read, its two accuracies, and the official prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_benchmarks import item_of, scored

from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply


@pytest.mark.parametrize(
    ("id", "reply", "answer", "right"),
    [
        ("boolean_expressions/0", "We get True and True. So the answer is True.", "True", 1),
        ("boolean_expressions/0", "so the answer is true", "True", 1),
        ("boolean_expressions/0", "So the answer is False. No: the answer is True.", "True", 1),
        ("boolean_expressions/0", "$\\boxed{\\text{False}}$", "False", 0),
        ("navigate/0", "So the answer is no", "No", 1),
        ("navigate/0", "Yes, you do.", "Yes", 0),
        ("formal_fallacies/0", "So the answer is invalid.", "invalid", 1),
        ("formal_fallacies/0", "So the answer is valid.", "valid", 0),
        ("formal_fallacies/0", "So the answer is not valid.", "invalid", 1),
        ("formal_fallacies/0", "The argument isn't deductively valid.", "invalid", 1),
        ("object_counting/0", "2 + 5 = 7. So the answer is 7.", "7", 1),
        ("object_counting/0", "So the answer is seven fruits.", "7", 1),
        ("object_counting/0", "So the answer is 2 + 5 = 7", "7", 1),
        ("object_counting/0", "So the answer is 17.", "17", 0),
        ("word_sorting/0", "So the answer is fig pear plum.", "fig pear plum", 1),
        ("word_sorting/0", "The answer is: Fig, pear, plum", "Fig, pear, plum", 1),
        ("word_sorting/0", "So the answer is pear fig plum.", "pear fig plum", 0),
        ("word_sorting/0", "The sorted list: fig pear plum", "fig pear plum", 1),
        ("word_sorting/0", "I cannot sort that.", None, 0),
        ("word_sorting/0", "fig\npear\nplum", "fig pear plum", 1),
        ("word_sorting/0", "pear\nfig\nplum", "pear fig plum", 0),
        ("word_sorting/0", "The answer is:\nfig\npear\nplum", "fig pear plum", 1),
        ("word_sorting/0", "The answer is:\n\n- fig\n- pear\n- plum\n\nI hope it helps.", "fig pear plum", 1),
        ("word_sorting/0", "- fig\n- pear\n- plum", "fig pear plum", 1),
        ("word_sorting/0", "1. fig\n2. pear\n3. plum", "fig pear plum", 1),
        ("word_sorting/0", "[fig, pear, plum]", "[fig, pear, plum]", 1),
        ("word_sorting/0", "The answer is ['fig', 'pear', 'plum'].", "['fig', 'pear', 'plum']", 1),
        ("word_sorting/0", "'fig', 'pear', 'plum'", "fig', 'pear', 'plum", 1),
        ("word_sorting/0", "So the answer is fig pear plum. These are sorted.", "fig pear plum", 1),
        ("word_sorting/0", "fig pear plum\n\nSorted by letter.", "fig pear plum", 1),
        ("word_sorting/0", "plum fig pear\n\nSorted:\nfig\npear\nplum", "fig pear plum", 1),
        ("word_sorting/0", "So the answer is fig pear plum fig.", "fig pear plum fig", 0),
        ("navigate/0", "Yes. Actually, no.", "No", 1),
        ("object_counting/0", "7\n\nExplanation: 2 of them are pears.", "7", 1),
        ("snarks/0", "B\n\nRain is wet, which (A) says.", "(B)", 1),
        ("snarks/0", "(A) Rain is wet\n(B) Rain is my favourite oven", None, 0),
        ("dyck_languages/0", "So the answer is } ) ].", "} ) ]", 1),
        ("dyck_languages/0", "So the answer is })]", "} ) ]", 1),
        ("dyck_languages/0", "So the answer is ) } ].", ") } ]", 0),
        ("dyck_languages/0", "} ) ]", "} ) ]", 1),
        ("dyck_languages/0", "So it is:\n\n`} ) ]`", "} ) ]", 1),
        ("dyck_languages/0", "$\\boxed{} ) ]}$", "} ) ]", 1),
        ("dyck_languages/0", "\\boxed{\\text{\\} ) ]}}", "} ) ]", 1),
        ("dyck_languages/0", "No brackets here.", None, 0),
        ("snarks/0", "Rain is my favourite oven", "(B)", 1),
        ("snarks/0", '"' * 4000, None, 0),
        ("word_sorting/0", '"' * 4000, None, 0),
        ("snarks/0", "Ovens are odd. So the answer is (B).", "(B)", 1),
        ("snarks/0", "The answer is B", "(B)", 1),
        ("snarks/0", "\\boxed{(B)}", "(B)", 1),
        ("snarks/0", "The answer is (A). On second thought, the answer is (B)!", "(B)", 1),
        ("snarks/0", "The answer is Rain is wet.", "(A)", 0),
        ("snarks/0", "", None, 0),
    ],
)
def test_bbh_replies(data: Path, id: str, reply: str, answer: str | None, right: int) -> None:
    record = scored("bbh", data, id, reply)
    assert (record.answer, record.scores["accuracy"]) == (answer, right)


def test_bbh_has_lm_evals_own_score_beside(data: Path) -> None:
    assert scored("bbh", data, "snarks/0", "So the answer is (B).").scores["accuracy_lm_eval"] == 1
    assert (
        scored("bbh", data, "snarks/0", "So the answer is (B)").scores["accuracy_lm_eval"] == 0
    )  # it drops a character
    late = scored("bbh", data, "snarks/0", "A thought.\n\nSo the answer is (B).").scores
    assert (late["accuracy"], late["accuracy_lm_eval"]) == (1, 0)  # it stops at a blank line


def test_bbh_numbers(data: Path) -> None:
    bench = BENCHMARKS["bbh"]
    items = [item for item in bench.load(data) if item.group in ("boolean_expressions", "navigate")]
    replies = {"boolean_expressions/0": "True", "boolean_expressions/1": "True", "navigate/0": "No"}
    result = bench.summarise(bench.score(items, {id: Reply(text) for id, text in replies.items()}))
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(75.0)  # mean of 50 and 100
    assert result["metrics"]["accuracy_weighted"]["value"] == pytest.approx(200 / 3)
    assert result["metrics"]["accuracy"]["stderr_tasks"] == pytest.approx(25.0)  # half the distance of the two tasks
    assert result["groups"]["boolean_expressions"]["value"] == pytest.approx(50.0)


def test_bbh_asks_the_official_three_shots(data: Path) -> None:
    bench = BENCHMARKS["bbh"]
    item = item_of(bench, data, "boolean_expressions/0")
    text = bench.prompt(item, chat=False, shots=3).text
    assert text.startswith(
        "Evaluate the result of a random Boolean expression.\n\nQ: not ( ( not not True ) ) is\nA: Let's"
    )
    assert text.endswith("So the answer is True.\n\nQ: True and not False is\nA: Let's think step by step.\n")
    turns = bench.prompt(item, chat=True, shots=3).messages
    assert [turn.role for turn in turns] == ["user", "assistant"] * 3 + ["user"]
    assert turns[0].content.startswith("Evaluate the result of a random Boolean expression.\n\nQ: not (")
    assert len(bench.prompt(item, chat=True, shots=1).messages) == 3


def test_bbh_prompts_are_the_official_ones(data_folder: Path) -> None:
    bench = BENCHMARKS["bbh"]
    first = {item.group: item for item in reversed(bench.load(data_folder))}
    differing = []
    for task, item in first.items():
        official = (data_folder / f"bbh/cot-prompts/{task}.txt").read_text().split("-----\n", 1)[1].strip()
        text = bench.prompt(item, chat=False, shots=3).text
        asked = f"{official}\n\nQ: {item.prompt}\nA: Let's think step by step.\n"
        if text != asked:
            differing.append(task)
            assert text.replace("step.\n", "step. ") == asked.replace("step.\n", "step. ")
    assert differing == ["sports_understanding"]  # one line break for a space


def test_a_next_question_that_a_chat_model_invents_is_not_read(data: Path) -> None:
    reply = "So the answer is Yes.\n\nQ: Is it?\nA: Let's think step by step. So the answer is No."
    assert scored("bbh", data, "navigate/0", reply).answer == "Yes"
    reply = reply.replace("Yes", "(C)").replace("No.", "(B).").replace("Q:", "Question:")
    for name, id in (("mmlu_pro", "11"), ("arc_challenge", "Q_2")):
        assert scored(name, data, id, reply).answer == "C"
