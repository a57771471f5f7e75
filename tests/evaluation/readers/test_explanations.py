"""A short line after the answer that begins like a refusal, but is about something else than the options."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
EXPLANATIONS = [
    "Both clues are used.",
    "Both glasses will come to thermal equilibrium with the room.",
    "Both are capitals.",
    "Both of the sources agree.",
    "Neither axis has an offset.",
    "Neither case studies nor ethnographies use standardized questions.",
    "Neither of these cities is as old.",
    "None of these cities has hills.",
    "All of them are instruments.",
    "All of the above facts support it.",
    "All correct statements mention hills.",
    "Each of them has its river.",
    "Nothing in the text contradicts this.",
    "Maybe this helps!",
    "Depends on context.",
    "It depends on the hills.",
    "Unknown to many, it is old.",
    "Not sure? Look at a map.",
    "Either way, it is old.",
    "Any of these could rust in water, but only one does.",
    "Not only is it old, it is large.",
    "It is not possible to doubt it.",
    "There is no answer but this.",
    "More information is available online.",
]
REFUSALS = [
    "Both.",
    "Neither of them.",
    "Both options are possible.",
    "Neither option is right.",
    "Neither one fits.",
    "None of them works.",
    "All of them are correct.",
    "Both are equally good.",
    "Any of them could be correct.",
    "No answer fits.",
    "Maybe.",
    "It depends.",
    "Unknown.",
    "It is unclear which one is right.",
    "I'd rather not say.",
    "Honestly, it could be any of them.",
    "Neither is a gas, so neither is correct.",
]


@pytest.mark.parametrize("line", EXPLANATIONS)
def test_an_explanation_takes_no_answer_back(line: str) -> None:
    for reply in ("The answer is (B).\n\n{}", "**Answer: B**\n{}", "B) Rome. {}", "(B), since it is old. {}"):
        assert find_letter(reply.format(line), "ABCD", OPTIONS).answer == "B"
    assert find_word(f"So the answer is Yes.\n\n{line}", ("Yes", "No")).answer == "Yes"
    assert find_number(f"So the answer is 6.\n{line}").answer == "6"
    assert find_answer(f"So the answer is fig pear.\n\nSorted. {line}", "Sort.", "fig pear").answer == "fig pear"
    assert find_answer(f"So the answer is ] ).\n{line}", "Close.", "] )").answer == "] )"
    later = f"{line[0].lower()}{line[1:]}"
    assert find_letter(f"The answer is B. Actually, {later}", "ABCD", OPTIONS).answer == "B"
    assert find_word(f"The answer is Yes. Actually, {later}", ("Yes", "No")).answer == "Yes"
    assert find_number(f"The answer is 6. Actually, {later}").answer == "6"


@pytest.mark.parametrize("line", REFUSALS)
def test_a_refusal_of_the_options_still_takes_it_back(line: str) -> None:
    for reply in ("The answer is (B).\n\n{}", "Rome (B) is old. {}", "The answer is B. Actually, {}"):
        assert find_letter(reply.format(line), "ABCD", OPTIONS).answer is None
    assert find_word(f"So the answer is Yes.\n\n{line}", ("Yes", "No")).answer is None
    assert find_number(f"So the answer is 6.\n{line}").answer is None
    assert find_answer(f"So the answer is fig pear.\n{line}", "Sort.", "fig pear").answer is None


@pytest.mark.parametrize("line", ["Both A and C are younger.", "Neither Paris nor Oslo is as old."])
def test_what_is_said_of_the_other_options_takes_nothing_back(line: str) -> None:
    assert find_letter(f"The answer is (B).\n\n{line}", "ABCD", OPTIONS).answer == "B"


@pytest.mark.parametrize("line", ["Both A and C would be acceptable.", "Both Rome and Oslo are correct."])
def test_options_that_are_called_right_take_it_back(line: str) -> None:
    assert find_letter(f"The answer is (B).\n\n{line}", "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("So, while technically yes, a typical person would answer **No**.", "No"),
        ('A reasonable person would say: "Yes".', "Yes"),
        ("The answer is Yes. Most people would say No.", "Yes"),
        ("A typical person would say no one did.", None),
    ],
)
def test_a_typical_persons_answer(reply: str, answer: str | None) -> None:
    assert find_word(reply, ("Yes", "No")).answer == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("You have 6 musical instruments: 1 trumpet, 1 accordion, 3 clarinets and 1 violin.", "6"),
        ("There are 6 instruments in total (1 trumpet, 2 drums, 3 flutes).", "6"),
        ("There are seven fruits: two pears, five plums.", "7"),
        ("You have 6 instruments:\n- 1 trumpet\n- 2 drums\n- 3 flutes", "6"),
        ("Step 2: 1 pear and 3 plums make 4.", "4"),
        ("The answer is 7. It has 6 things: 1 pear and 5 plums.", "7"),
    ],
)
def test_a_count_and_its_parts(reply: str, answer: str) -> None:
    assert find_number(reply).answer == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is not listed, but if I had to choose, I would say (D).", "D"),
        ("None of these is listed, but if I had to pick one, I'd go with D.", "D"),
        ("It cannot be determined, but if forced to guess, I would pick option C.", "C"),
        ("If I had to choose, I would say (B) or (C).", None),
    ],
)
def test_a_choice_under_protest_is_one(reply: str, answer: str | None) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == answer
