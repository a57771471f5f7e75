"""Replies whose last statement leaves the question open, and answers that replace an earlier one."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.last_statement import left_open_at, taken_back_at

NAMED = ["Paris", "Rome", "Oslo", "Bonn"]
QUESTION = "Which city?\nOptions:\n(A) Paris\n(B) Rome\n(C) Oslo\n(D) Bonn"
OPTIONS = ["Mercury", "Venus", "Mars", "Earth"]
DISCUSSED = "Mercury is the closest planet (A). Venus is the hottest (B). Earth has life (D).\n\n"
COUNTED = "There are two apples (2), a banana (1) and three plums (3). Total: 6.\n\n"


def letter(reply: str) -> str | None:
    return find_letter(reply, "ABCD", OPTIONS).answer


@pytest.mark.parametrize(
    "ending",
    [
        "The provided options do not include the correct answer.",
        "The given options do not contain this value.",
        "It seems there is a mistake in the provided options.",
        "There appears to be a discrepancy between my result and the options.",
        "The options seem to be incorrect.",
        "I'm unable to match this to one of the options.",
        "So I can't match this to any of the options.",
        "This does not match any of the given options.",
        "I'm sorry, but I cannot give a definitive answer to this question.",
        "I cannot provide a definitive answer without more information.",
        "I'm unable to provide an answer.",
        "The answer depends on the context.",
        "The wording of the question is too vague for me to pick one.",
        "I'm sorry, but I'm not able to answer this. Is there anything else I can help you with?",
        "I can't say which is right. Let me know if you have more details!",
        "I'm not sure which of these is intended. All of them are just small changes.",
        "There is more than one correct answer here.",
        "The question has multiple correct answers.",
        "More than one option is correct.",
        "Several of the options could be correct.",
        "Please provide more information.",
        "A better match would be Jupiter.",
    ],
)
def test_a_last_statement_that_leaves_the_question_open_is_no_answer(ending: str) -> None:
    assert letter(DISCUSSED + ending) is None


@pytest.mark.parametrize(
    "ending",
    [
        "However, the question is ambiguous, so I cannot give a definitive answer.",
        "It depends on whether you count the raspberry.",
        "I'm not able to give a definite number, though. Let me know if you need anything else!",
    ],
)
def test_a_count_that_is_left_open_is_no_number(ending: str) -> None:
    assert find_number(COUNTED + ending).answer is None


def test_what_is_only_named_loses_to_an_open_question_and_what_is_stated_to_a_refusal() -> None:
    assert letter("This is option (B).\n\nNot enough information is provided to determine the correct answer.") is None
    assert letter("The answer is (B).\n\nI'm sorry, but I cannot give a definitive answer to this question.") is None
    assert letter("(B) is a common statement. (A) is an exaggeration.\n\nBoth statements are odd.") is None


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is (B), although the question is ambiguous.", "B"),
        ("The question is ambiguous, but the best answer is (B).", "B"),
        ("The answer is (C). Note that the wording of option (A) contains a small mistake.", "C"),
        ("There seems to be a typo in the question, but assuming it means Mars, the answer is C.", "C"),
        ("The answer is (B). I hope this helps! Let me know if you have more questions.", "B"),
        ("(B) Venus\n\nNote that the temperature depends on the altitude.", "B"),
        ("Venus is the hottest (B). The other options are incorrect.", "B"),
        ("Venus is the hottest (B). I was unable to verify this result.", "B"),
        ("The answer is (D). Let me double-check: it has water. Yes, that's right.", "D"),
        ("The answer is (D). Actually, this is one of the most common questions.", "D"),
    ],
)
def test_a_remark_leaves_an_answer_as_it_is(reply: str, answer: str) -> None:
    assert letter(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is (B).\n\nActually, (D) is a better answer.", "D"),
        ("The answer is (B). Hmm, but the question is more general. I'd go with (D).", "D"),
        ("The answer is (B).\n\nUpon further reflection, it is general, so D is correct.", "D"),
        ("The answer is (B).\n\nUpon closer inspection, (D) fits the description better.", "D"),
        ("The answer is (B).... I mean (D).", "D"),
        ("The answer is (B). So B is wrong and D is right.", "D"),
        ("The answer is (B). Hmm, B can't be right because it has more specific signs.", None),
    ],
)
def test_a_later_letter_replaces_the_earlier_one(reply: str, answer: str | None) -> None:
    assert letter(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is 8. Wait, I counted the apple twice, so it's 7.", "7"),
        ("The answer is 12. Let me recount: 3 + 4 + 4 = 11. So there are 11.", "11"),
        ("The answer is 12. Actually, I missed one pear, so that makes 13.", "13"),
        ("The answer is 6. Whether a tomato is a fruit depends on the definition.", "6"),
    ],
)
def test_a_later_number_replaces_the_earlier_one(reply: str, answer: str) -> None:
    assert find_number(reply).answer == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("So the answer is Yes. Hmm, the last step is missing. I'll go with No.", "No"),
        ("So the answer is Yes. Let me recheck: 5 - 7 = -2. So no, you do not return.", "No"),
        ("So the answer is Yes. Let me recheck: 5 - 7 = -2. You do not return.", None),
        ("So the answer is Yes. Wait, 5 - 5 = 0. That's right.", "Yes"),
    ],
)
def test_a_later_word_replaces_the_earlier_one(reply: str, answer: str | None) -> None:
    assert find_word(reply, ("Yes", "No")).answer == answer


def test_a_later_judgement_in_other_words_replaces_the_earlier_one() -> None:
    reply = "So the answer is valid. However, on closer look, the conclusion doesn't follow. The argument is invalid."
    assert find_word(reply, ("valid", "invalid")).answer == "invalid"


def test_where_the_last_statement_begins() -> None:
    assert left_open_at("B fits. The question is ambiguous. I hope this helps!") == 8
    assert left_open_at("The question is ambiguous. B fits.") == -1
    assert left_open_at("Two of the options are correct.", of_options=False) == -1
    assert taken_back_at("It is B. I can't say for sure which.") == -1


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
    assert find_letter(reply.format(B="B"), "ABCD", NAMED).answer is None
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
    assert find_letter(reply.format(B="B"), "ABCD", NAMED).answer == "B"
    assert find_answer(reply.format(B="(B)"), QUESTION, "(B)").answer == "(B)"
