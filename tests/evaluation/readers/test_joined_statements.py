"""Two statements that both hold, and letters that are not offered beside one that is, choose no single answer."""

from __future__ import annotations

import pytest
from growth import growth

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.metrics import final_answer
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.parallel import joined_statements

OPTIONS = ["Paris", "Rome", "Oslo"]
KINDS = [("Yes", "No"), ("valid", "invalid"), ("3", "4"), ("three", "four"), ("] )", "> )"), ("fig pear", "pear fig")]
FORMS = [
    "The answer is {b} and the answer is {a}.",
    "The answer is {b}, or the answer is {a}.",
    "If it rains, the answer is {b}. Otherwise, the answer is {a}.",
    "So the answer is {b}. So the answer is {a} as well.",
    "Answer 1: {b}\nAnswer 2: {a}",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("a", "b"), KINDS)
def test_of_two_statements_none_is_the_answer(form: str, a: str, b: str) -> None:
    target = {"three": "3"}.get(a, a)
    assert find_answer(form.format(a=a, b=b), "A question.", target).answer != target
    if form in FORMS[:2]:
        assert find_answer(form.format(a=a, b=a), "A question.", target).answer == target


@pytest.mark.parametrize("form", FORMS)
def test_of_two_letters_none_is_the_answer(form: str) -> None:
    for a, b in (("(B)", "(C)"), ("B", "C"), ("(B)", "(E)"), ("Rome", "Oslo")):
        assert find_letter(form.format(a=a, b=b), "ABC", OPTIONS).answer is None
        assert find_letter(form.format(a=b, b=a), "ABC", OPTIONS).answer is None
    assert find_letter(f"{form.format(a='A', b='C')}\nNo, the answer is B.", "ABC", OPTIONS).answer == "B"
    assert final_answer(form.format(a="B", b="C"), ["B"]).value == 0.0


@pytest.mark.parametrize("other", ["(E)", "E"])
@pytest.mark.parametrize(
    "form",
    [
        "So the answer is {} and {}.",
        "So the answer is {} or {}.",
        "{} or {}",
        "{}/{}",
        "The answer is either {} or {}.",
        "Answer: {}, {}",
        "The answer is {} (or {}).",
        "The answers are {} and {}.",
        "Both {} and {} are correct.",
        "The answer is {}, but {} is also correct.",
    ],
)
def test_a_letter_that_is_not_offered_counts_as_a_second_one(form: str, other: str) -> None:
    first = "(B)" if "(" in other else "B"
    assert find_letter(form.format(first, other), "ABC", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is (B), I think.",
        "The answer is B. U.S. law says so.",
        "The answer is (B), not (E).",
        "The answer is (B) Rome. E = mc2 and F = ma.",
        "We know that X and Y hold, and the answer is B.",
        "The answer is (B) Rome, and the answer is B.",
        "The answer is not A and the answer is B.",
        "The answer is B, since the answer is not C.",
        "(E) is not offered, so the answer is (B).",
    ],
)
def test_other_letters_are_no_second_answer(reply: str) -> None:
    assert find_letter(reply, "ABC", OPTIONS).answer == "B"


@pytest.mark.parametrize("target", ["] )", "fig pear"])
@pytest.mark.parametrize(
    "end",
    ["Actually, neither.", "However, it cannot be determined.", "Wait, it cannot be determined.", "None of these."],
)
def test_brackets_and_lists_are_taken_back(target: str, end: str) -> None:
    assert find_answer(f"So the answer is {target}.", "A question.", target).answer == target
    assert find_answer(f"So the answer is {target}. {end}", "A question.", target).answer is None


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ("> )\n] )", "] )"),
        ("So the answer is ] ), but it could also be > ).", "] )"),
        ("So the answer is ] ) alternatively > ).", "] )"),
        ("pear fig\nfig pear", "fig pear"),
        ("The answer is between Yes and No.", "Yes"),
        ("So the answer is not three.", "3"),
    ],
)
def test_other_forms_of_two_answers_and_of_none(reply: str, target: str) -> None:
    assert find_answer(reply, "A question.", target).answer is None


def test_two_judgements_with_colons() -> None:
    assert find_letter("B: correct\nC: correct", "ABC", OPTIONS).answer is None
    assert find_letter("B: correct\nC: incorrect", "ABC", OPTIONS).answer == "B"


@pytest.mark.parametrize(
    "piece",
    [
        "the answer is B as well. ",
        "the answer is ",
        "if a, the answer is x. ",
        "it may be ",
        "Answer: B. ",
        "answer is B, so ",
    ],
)
def test_statements_are_joined_in_good_time(piece: str) -> None:
    assert growth(lambda length: joined_statements(piece * (length // len(piece))), 5000) < 12
