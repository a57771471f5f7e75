"""A reply that goes on with a next question answers the one that was asked."""

from __future__ import annotations

from functools import partial

import pytest
from growth import LINEAR, growth

from tutelage.evaluation.readers.find_answer import Found, find_word
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.next_question import find_before_next


def _word(reply: str) -> Found:
    return find_word(reply, ("Yes", "No"))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("So the answer is No.\n\nQ: Is it?\nA: So the answer is Yes.", "No"),
        ("No\nQ: Is it?\nA: Yes", "No"),
        ("Q: Is it?\nA: So the answer is No.\n\nQ: And now?\nA: So the answer is Yes.", "No"),
        ("Let me restate.\nQ: Is it?\nA: So the answer is Yes.", "Yes"),
        ("So the answer is Yes and No.\n\nQ: Is it?\nA: So the answer is Yes.", None),
    ],
)
def test_words(reply: str, answer: str | None) -> None:
    assert find_before_next(_word, reply, True, ("\nQ:", "</s>")).answer == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is (C).\n\nQuestion: Which?\nAnswer: The answer is (B).", "C"),
        ("**Question:** Which is old?\n\n**Answer:** (B)", "B"),
        ("Let me restate.\n\n**Question:** Which is old?\n\n**Answer:** (B)", "B"),
        ("It is old.\n\nThe best answer is B.", "B"),  # a blank line ends no chat model's answer
    ],
)
def test_letters(reply: str, answer: str) -> None:
    read = partial(find_letter, letters="ABCD")
    assert find_before_next(read, reply, True, ("\n\n", "Question:")).answer == answer


def test_a_cut_reply_counts_to_the_next_question() -> None:
    reply = "So the answer is No.\n\nQ: Is it?\nA: It"
    assert find_before_next(_word, reply, False, ("\nQ:",)).answer == "No"


def test_many_next_questions_are_read_in_good_time() -> None:
    assert growth(lambda size: find_before_next(_word, "\nQ: so" * size, True, ("\nQ:",)), 400) < LINEAR
