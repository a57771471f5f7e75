"""A letter that was merely discussed is no answer where the reply then says that the answer cannot be told."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
QUESTION = "Which city?\nOptions:\n(A) Paris\n(B) Rome\n(C) Oslo\n(D) Bonn"


@pytest.mark.parametrize(
    "reply",
    [
        "{B} is a plausible choice, but the question doesn't provide enough information to say for certain.",
        "Option {B} looks reasonable. However, the question lacks the information needed to determine the answer.",
        "Option {B} needs the mass. Since the problem does not give enough information, it cannot be solved.",
        "The passage mentions {B}. The given information is insufficient to determine the answer.",
        "{B} mentions seven hills.\n\nSadly, the question does not give enough information to determine the answer.",
        "{B} seems plausible, but the information given is not sufficient to answer the question.",
        "{B} seems plausible. However, the premises do not tell us enough to decide.",
        "{B} might be true. However, the paragraph does not say which one it is.",
        "Option {B} is close to my result. However, my result doesn't match any option exactly, so I can't select one.",
        "Option {B} comes closest, however the correct value is not among the options.",
        "I first thought of {B}. But the right answer does not appear in the list.",
    ],
)
def test_a_letter_before_no_grounds_is_no_answer(reply: str) -> None:
    assert find_letter(reply.format(B="B"), "ABCD", OPTIONS).answer is None
    assert find_answer(reply.format(B="(B)"), QUESTION, "(B)").answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "{B}\n\nThe passage does not give enough information to decide on the others.",
        "The answer is {B}. The passage does not say which hill was built on first.",
        "The value is not among the options that begin with P. The answer is {B}.",
        "The passage does not tell us enough to choose Paris, so the answer is {B}.",
    ],
)
def test_an_answer_beside_other_gaps_is_one(reply: str) -> None:
    assert find_letter(reply.format(B="B"), "ABCD", OPTIONS).answer == "B"
    assert find_answer(reply.format(B="(B)"), QUESTION, "(B)").answer == "(B)"
