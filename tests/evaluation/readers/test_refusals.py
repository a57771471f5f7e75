"""A refusal is an option only where the whole option is that refusal; at the end of a discussion it is the answer."""

from __future__ import annotations

import pytest

from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.find_refusal import same_refusal

CITIES = ["Paris", "Rome", "Oslo", "Bonn"]
NONE = ("None of the above.", "The answer is neither.", "So none of these.", "None of the options is correct.")
UNKNOWN = ("It cannot be determined.", "The answer is unknown.", "There is not enough information to decide.")
OWN = ("I cannot determine the answer.", "I don't know.", "I'm not sure; it depends.", "I can't answer this.")


@pytest.mark.parametrize(
    "option",
    [
        "It depends on its own blood supply",
        "It cannot be divided into smaller substances",
        "The opinion was unsubstantiated, and the rest is unknown",
        "Neither party recovers from the other",
        "All of the above",
        "Both of these",
        "Not possible without a catalyst",
        "Maybe a mutation",
    ],
)
def test_an_option_with_words_of_a_refusal_is_none(option: str) -> None:
    for reply in (*NONE, *UNKNOWN, *OWN):
        assert find_letter(reply, "ABC", ["Paris", "Rome", option]).answer is None


@pytest.mark.parametrize(
    ("option", "replies"),
    [
        ("None of the above", NONE),
        ("Neither a nor b.", NONE),
        ("d. None of these statements are true", NONE),
        ("No correct answer is given", NONE),
        ("Cannot be determined from the information given", UNKNOWN),
        ("There is insufficient information to answer this question", UNKNOWN),
        ("Need more information", UNKNOWN),
        ("Ambiguous", (*UNKNOWN, "It is ambiguous.", "The pronoun is ambiguous.", "It is unclear who left.")),
    ],
)
def test_an_option_that_is_a_refusal_is_chosen_by_one_of_its_kind(option: str, replies: tuple[str, ...]) -> None:
    options = ["the cook", "the maid", option]
    for reply in (*NONE, *UNKNOWN, *OWN, "It is ambiguous.", "The pronoun is ambiguous.", "It is unclear who left."):
        ambiguous = "ambiguous" in reply or "who left" in reply
        if reply in replies or not ambiguous:
            assert find_letter(reply, "ABC", options).answer == ("C" if reply in replies else None), reply


def test_all_of_these_is_no_refusal() -> None:
    assert not same_refusal("all of the above", "None of the above.")
    assert not same_refusal("none of the above", "All of the above.")
    assert same_refusal("none of the above", "I think that the answer is none of these.")
    assert not same_refusal("ambiguous", "")


@pytest.mark.parametrize(
    "reply",
    [
        "I initially leaned to A. But neither A nor any of the other choices fits.",
        "I initially leaned to C. However, neither C nor the other options match.",
        "At first C seems right. However, C doesn't fit either, and none of the others do.",
        "The answer is (D).\n\nWait, I forgot friction. With friction the speed can't be determined.",
        "I was inclined to say (B), but none of the cities listed lies on seven hills.",
        'I would have picked A, but the question says "highest", and none of the cities given is.',
        "(B) is the closest in spirit, but strictly speaking the question has no correct option.",
        "Option (B) might look right, but the city described isn't listed.",
        "It can't be (A), since it is flat, nor (B), as it is warm; (C) and (D) are ruled out too.",
        "Not A, since it's too large. Not B either. C and D don't work.",
        "(A) seems correct, but (B) does too. I can't choose between them.",
        "(A) seems right at first, but so does (B), so I can't pick one.",
        "(B) is right, and so is (C).",
        "(A) looks plausible, yet the text never mentions cities. None of the options is supported.",
    ],
)
def test_a_final_refusal_after_a_discussion_is_no_answer(reply: str) -> None:
    assert find_letter(reply, "ABCD", CITIES).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is B. None of the other cities has seven hills.",
        "The answer is B.\n\nNone of the other options listed works here.",
        "Answer: B\n\nNeither Oslo nor Bonn has hills.",
        "(B) is the right one. A doesn't fit, C doesn't fit, and D doesn't either.",
        "A does not apply, C and D are ruled out. That leaves B.",
        "I'd pick B, but I can't be entirely sure.",
        "The answer is B, although its age can't be determined.",
        "The population is not given, so we cannot compare. Still, it is obviously Rome: B.",
        "❌ A. Paris\n✅ **B. Rome**\n❌ C. Oslo\n❌ D. Bonn",
        "- A: ❌\n- B: ✅ it has seven\n- C: ❌\n- D: ❌\n\nSo B.",
    ],
)
def test_an_answer_beside_refusals_of_the_others_is_one(reply: str) -> None:
    assert find_letter(reply, "ABCD", CITIES).answer == "B"


def test_an_option_that_refuses_may_be_denied_too() -> None:
    options = ["5 kJ", "10 kJ", "20 kJ", "None of the above"]
    assert find_letter("It is 15 kJ, so none of A, B and C fits.", "ABCD", options).answer == "D"
    reply = "It is 15 kJ, so none of A, B and C fits, and D does not either."
    assert find_letter(reply, "ABCD", options).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is 12. Hmm, on second thought, there is no way to know.",
        "The answer is 12. Actually, there's no way to tell.",
        "The answer is 12. Then again, there's no way to be sure.",
        "There are 12 fruits if you count the tomato, otherwise 11.",
        "There are at least 12 fruits.",
        "At least 12, maybe more.",
        "12 or more.",
        "x = 3 or x = 12",
    ],
)
def test_numbers_that_are_not_one_are_no_answer(reply: str) -> None:
    assert find_number(reply).answer is None


def test_an_answer_is_taken_back_by_no_way_of_knowing() -> None:
    assert find_word("The answer is Yes. Then again, there's no way of knowing.", ("Yes", "No")).answer is None
    assert find_word("The answer is Yes. Then again, most would say yes.", ("Yes", "No")).answer == "Yes"
    assert find_number("x = 3 and y = 4, so xy = 12.").answer == "12"
    assert find_number("At least one box is empty, so 12 boxes are full.").answer == "12"
