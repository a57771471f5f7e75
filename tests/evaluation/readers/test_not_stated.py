"""Answers that a reply doubts, asks for, supposes, or mentions before it is cut are none, whatever the target is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_benchmarks import item_of

from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.judges.protocol import ChatReply, ask_questions, read_answer
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]


@pytest.mark.parametrize(
    "form",
    [
        "I don't think the answer is {}.",
        "I do not really believe that the correct answer is {}.",
        "We cannot conclude that the answer is {}.",
        "I doubt that the answer is {}.",
        "It is unlikely that the answer is {}.",
        "It's not true that the answer is {}.",
        "This does not mean that the answer is {}.",
        "Is the answer {}?",
        "Could the right answer be {}? No.",
        "If the answer is {}, then the text would say so",
        "It is unclear whether the answer is {}.",
    ],
)
def test_what_is_doubted_asked_or_supposed_is_not_stated(form: str) -> None:
    for answer in ("(B)", "B", "Rome"):
        assert find_letter(form.format(answer), "ABCD", OPTIONS).answer in (None, "")
        stated = find_letter(f"{form.format(answer)} The answer is (C).", "ABCD", OPTIONS)
        assert stated.answer == "C"
    assert find_word(form.format("yes"), ("Yes", "No")).answer in (None, "No")
    assert find_number(form.format("7")).answer is None or "?" in form
    assert find_number(f"{form.format('7')} The answer is 8.").answer == "8"


@pytest.mark.parametrize(
    "reply",
    [
        "We can rule out (B).",
        "We can eliminate (A) and (B).",
        "Excluding B for now.",
        "(B) can be ruled out.",
        "(A) and (B) are eliminated.",
        "The answer is anything but (B).",
        "La respuesta es (A) o (B).",
        "La respuesta no es (B).",
        "Die Antwort ist nicht (B).",
        "La réponse n'est pas B.",
        "答案是A和B。",
        "答案是A或B",
        "答案不是B。",
        "不应选B。",
    ],
)
def test_letters_that_are_ruled_out_or_joined_in_other_languages(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "Eliminating A, C and D leaves B.",
        "We can eliminate (A), (C), and (D), leaving (B).",
        "So the best answer among A, B, C, D is B.",
        "Among (A), (B), (C) and (D), (B) is the correct answer.",
        "Is the answer (B)? Yes.",
        "I don't think the answer is (A); it is (B).",
        "The answer is not A, B.",
        "正确选项是B",
        "因此选B。",
        "정답은 B입니다.",
        "答案应该是B，而不是A。",
    ],
)
def test_letters_that_are_stated_beside_others(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == "B"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The argument cannot be deductively valid.", "invalid"),
        ("The argument fails to be valid.", "invalid"),
        ("The argument is **not** valid.", "invalid"),
        ("It does not follow that the argument is valid.", "invalid"),
        ("The argument is not deductively invalid.", "valid"),
        ("The argument isn't invalid.", "valid"),
        ("The argument is deductively valid.", "valid"),
    ],
)
def test_a_denied_validity_is_the_opposite(reply: str, answer: str) -> None:
    for target in ("valid", "invalid"):
        assert find_answer(reply, "", target).answer == answer


@pytest.mark.parametrize("name", ["bbh", "mmlu_pro", "arc_challenge", "gpqa"])
@pytest.mark.slow
def test_a_cut_reply_answers_only_what_it_states_or_begins_with(data: Path, name: str) -> None:
    bench = BENCHMARKS[name]
    item = item_of(bench, data, "snarks/0") if name == "bbh" else bench.load(data)[0]
    letter = item.targets[0].strip("()")

    def accuracy(text: str, finished: bool) -> float | None:
        return bench.score([item], {item.id: Reply(text, finished)})[0].scores["accuracy"]

    for text in (
        f"Let us look at ({letter}). It says that the",
        f"Let us look at them.\nNow {letter}, as given",
    ):
        assert accuracy(text, finished=True) == 1
        assert accuracy(text, finished=False) == 0
    for text in (
        f"The answer is ({letter}). This is",
        f"{letter}\n{letter}\n{letter}",
        f"({letter})",
        f"({letter})\n" * 3,
    ):
        assert accuracy(text, finished=False) == 1


def test_cut_numbers_words_and_lists(data: Path) -> None:
    bench, rows = BENCHMARKS["bbh"], {"7": "We have 3 and then 7", "Yes": "Let's see. Is it yes"}
    item = item_of(bench, data, "snarks/0")
    for target, text in rows.items():
        one = type(item)(item.id, "", (target,), {"input": "", "target": target}, item.group)
        found = [bench.score([one], {one.id: Reply(text, ended)})[0].scores["accuracy"] for ended in (True, False)]
        assert found == [1, 0]


@pytest.mark.parametrize("official", [True, False])
def test_an_empty_reply_meets_no_condition_and_no_judge_is_asked(official: bool) -> None:
    """“Does the text avoid profanity?” would be a yes."""
    asked = []

    def ask(messages: list[dict[str, str]], is_enough: object) -> ChatReply:
        asked.append(messages)
        return ChatReply("Yes")

    found = ask_questions(ask, "rules", "", " \n", ["Is it polite?", "Is it short?"], official)
    assert [answer for answer, _ in found] == ["no", "no"]
    assert asked == []
    assert [answer for answer, _ in ask_questions(ask, "rules", "", ".", ["Is it short?"], official)] == ["yes"]


@pytest.mark.parametrize(
    "text",
    [
        "I don't think the answer is yes.",
        "Is the answer YES?",
        "Yes... well, actually no.",
        "It is unlikely that the answer is yes",
    ],
)
def test_a_judges_answer_that_is_not_stated(text: str) -> None:
    assert read_answer(text) is None


LISTED = "(A) It is large.\n(B) It is old.\n(C) It is cold.\n(D) It was a capital.\n\n"
HEADINGS = [
    "Let's analyze each option:\n\n",
    "Now, consider each choice:\n",
    "Consider each answer:\n\n",
    "**Evaluate each option:**\n\n",
    "Let's analyze the given option:\n",
    "Let's find the correct answer:\n",
    "Here is an analysis of the option:\n",
    "Option by option:\n1. ",
    "Going over the answers:\n- ",
    "First option:\n",
]


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_over_options_states_nothing(heading: str) -> None:
    for ending, letter in (
        ("", None),
        ("No correct option is given.", None),
        ("I'd need more details to decide between A and B.", None),
        ("Both (B) and (A) satisfy the condition, so I would accept either one.", None),
        ("Given all this, (A) can be eliminated as well, so that leaves us with (B).", "B"),
        ("The best of these is B.", "B"),
        ("So the answer is (B).", "B"),
    ):
        assert find_letter(heading + LISTED + ending, "ABCD", OPTIONS).answer == letter
        question = "Which?\nOptions:\n(A) Paris\n(B) Rome\n(C) Oslo\n(D) Bonn"
        assert find_answer(heading + LISTED + ending, question, "(B)").answer == (f"({letter})" if letter else None)


def test_a_heading_that_states_options_or_words() -> None:
    for reply, letter in (
        ("The correct choice is therefore:\n\n(B) Rome", "B"),
        ("My choice:\n(B) Rome", "B"),
        ("The correct options are:\n(A) Paris\n(B) Rome", None),
        ("Answer:\n* A. Paris\n* C. Oslo", None),
        ("The answer is B. Another answer: C.", None),
    ):
        assert find_letter(reply, "ABCD", OPTIONS).answer == letter
    weighed = "Let's weigh each option:\n- Yes: he meant to.\n- No: he did not.\n\nThis could be argued for long."
    assert find_word(weighed, ["Yes", "No"]).answer is None


@pytest.mark.parametrize("name", ["mmlu_pro", "arc_challenge", "gpqa"])
def test_a_heading_and_a_cut_list_answer_nothing(data: Path, name: str) -> None:
    bench = BENCHMARKS[name]
    item = bench.load(data)[0]
    for listed in ("(A) This is the first.\n(B) This", "A. This is the first.\nB. This", "(A) This is"):
        found = bench.score([item], {item.id: Reply(f"Let me consider each option:\n\n{listed}", False)})[0]
        assert found.answer is None
