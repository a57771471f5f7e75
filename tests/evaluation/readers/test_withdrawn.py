"""Replies whose last sentence concludes with several options, is an empty form, or withdraws what was stated."""

from __future__ import annotations

import time

import pytest

from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["the day gets longer", "the orbit gets wider", "the day gets shorter", "gravity gets stronger"]
STATED = ["The planet spins faster, so C is right.\n\n", "The best answer is C. ", "So the answer is (C).\n\n"]


def letter(reply: str) -> str | None:
    return find_letter(reply, "ABCD", OPTIONS).answer


SEVERAL = [
    "In conclusion, (C) and (D) are both true.",
    "Therefore, the impact causes both C and D.",
    "Thus we get B or C, depending on the method.",
    "Hence C and F are the likely outcomes.",
    "In summary, options C and F are both consequences of the impact.",
    "So C and D are both effects. Let me know if you have any questions!",
    "Final: B/C",
    "Both C and D are effects of the impact.",
    "That gives us C and D.",
    "It follows that C and D are true.",
    "To summarize: (C) the day gets shorter, and (D) gravity gets stronger.",
]
EMPTY = [
    "Answer: ?",
    "Answer: -",
    "\\boxed{}",
    "\\boxed{?}",
    "The answer is ( ).",
    "The answer is ___.",
]
WITHDRAWN = [
    "I'm really not sure which one is right.",
    "I am unsure which one to pick.",
    "However, I'm no longer sure, and I'd leave it open.",
    "I'll have to leave this one blank.",
    "I'd skip this question.",
    "I'm going to pass.",
    "I give up.",
]


@pytest.mark.parametrize("ending", SEVERAL + EMPTY + WITHDRAWN)
def test_an_ending_without_a_single_answer_takes_back_a_stated_one(ending):
    for stated in STATED:
        assert letter(stated + ending) is None


@pytest.mark.parametrize(
    "ending",
    [
        "So of C and D, only C is an effect of the spin.",
        "Thus C is right, while A and B are not.",
        "In conclusion, A and B are wrong, and D is about gravity.",
        "Overall, between C and D, C is the more direct effect.",
        "Among (A), (B), (C) and (D), (C) is the correct answer.",
        "Unlike A and D, C follows from the spin.",
        "Hence points C and D move apart.",
        "So vitamins C and D are needed.",
        "Thus, blood types C and D mix.",
        "So the distance between C and D grows.",
        "So if C and D were joined, the sum would be the same.",
        "Thus, C follows, and D does not.",
        "Therefore, since A and B concern other quantities, C.",
        "So A and B are about other planets.",
        "Final answer: C",
        "I'm not sure which one the book wants, but C is best.",
        "I'm not sure about D, but C follows.",
        "I'll leave the proof to the reader.",
        "The others can be left open.",
        "The answer is ",
    ],
)
def test_an_ending_that_sets_no_answer_aside_leaves_it(ending):
    assert {letter(stated + ending) for stated in STATED} == {"C"}


def test_letters_that_an_option_names_are_no_options():
    options = ["A and C are independent", "A and C are disjoint", "A is empty", "C is empty"]
    assert find_letter("The answer is (A). Thus, A and C are independent.", "ABCD", options).answer == "A"


@pytest.mark.parametrize("ending", ["Answer: ?", "\\boxed{}", "I'd have to leave it open.", "I'm going to pass."])
def test_words_and_numbers_are_withdrawn_too(ending):
    assert find_word(f"So the answer is valid.\n\n{ending}", ("valid", "invalid")).answer is None
    assert find_word(f"So the answer is yes. {ending}", ("Yes", "No")).answer is None
    assert find_number(f"The answer is 7. {ending}").answer is None


def test_a_number_before_a_sentence_that_was_cut_holds():
    assert find_number("The answer is 7. There are 3 + 4 = 7 of them.\nThe answer is ").answer == "7"


@pytest.mark.parametrize(
    "part",
    [
        "So C and ",
        "So the ",
        "the final answer is ",
        "I am not ",
        "I leave the ",
        "C, D, (E ",
        "I'd have to ",
        "I am really not sure which one ",
    ],
)
def test_a_long_last_sentence_is_read_fast(part):
    start = time.perf_counter()
    letter("The answer is C. So " + part * (8000 // len(part)))
    assert time.perf_counter() - start < 2
