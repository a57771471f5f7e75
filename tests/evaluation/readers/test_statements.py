"""Which statements hold: taken back, denied, in parallel, left open or ranked below, for all kinds of answers."""

from __future__ import annotations

import pytest
from growth import growth

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.judges.protocol import read_answer
from tutelage.evaluation.metrics import final_answer
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.statements import what_holds

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
TAKEN_BACK = [
    "However, this is not correct.",
    "I take that back.",
    "Scratch that.",
    "Let me reconsider.",
    "That was a mistake.",
    "Oops, wrong.",
    "I was wrong.",
    "Hold on, that contradicts the first clue.",
    "My mistake, that's wrong.",
    "Please disregard my previous answer.",
    "Note: the above answer is wrong.",
    "Unfortunately, that cannot be right, since there are four hills.",
    "It contradicts the second premise, so this can't be correct.",
    "Hmm, this doesn't seem right.",
    "I made an error in the calculation above.",
    "I have changed my mind.",
    "No, it's not.",
    "Or not.",
]
UPHELD = [
    "Let me double-check: yes, that works.",
    "Wait, is this wrong? No, it's correct.",
    "Let me reconsider. The hills are old, so my answer stands.",
    "If that is wrong, I apologize.",
    "I may be wrong.",
    "Please correct me if I am wrong.",
    "Some think that Milan is a capital. However, this is not correct.",
    "The others are wrong.",
    "Paris is in Italy: many say so. This is incorrect.",
    "It would be a mistake to choose another.",
]
DENIED = [
    "It is wrong to say that {}.",
    "It is a mistake to say {}.",
    "It can't be that {}.",
    "Not that {}.",
    "I would never say that {}.",
    "There is no reason to think that {}.",
    "I disagree that {}.",
    "It is far from clear that {}.",
    "The claim that {} is false.",
    "To say {} would be a mistake.",
]
MADE = [
    "There is no doubt that {}.",
    "I don't doubt that {}.",
    "It is not wrong to say that {}.",
    "X does not hold, which means that {}.",
    "I am not sure, but {}.",
    "That's wrong. So {}.",
]
PARALLEL = [
    "1. Answer: {}\n2. Answer: {}",
    "(1) The answer is {}. (2) The answer is {}.",
    "- Answer: {}\n- Answer: {}",
    "Part 1: {}\nPart 2: {}",
    "Answer to part one is {}; answer to part two is {}.",
    "For men the answer is {}; for women the answer is {}.",
    "Under reading 1 the answer is {}. Under reading 2 the answer is {}.",
    "The answer is {} unless it rains, in which case it is {}.",
    "1. {}\n2. {}",
    "The answer is {} for the first part; for the second, {}.",
]
CORRECTED = [
    "The answer is {}. Correction: {}.",
    "The answer is {}. I take that back. The answer is {}.",
    "The answer is {}. Scratch that, it's {}.",
    "Answer: {}\n\nI made an error above. Final answer: {}",
    "At first the answer is {}. But then the second rule applies, so the answer is {}.",
    "Step 1: the answer is {}. Step 2: so it changes.\nFinally, the answer is {}.",
    "For part (a), the answer is {}. For part (b), it is large. Hence the final answer is {}.",
]
KINDS = [("(B)", "(C)"), ("B", "C"), ("yes", "no"), ("12", "13")]


def read(reply: str, one: str) -> str | None:
    if one.strip("()") in "ABCD":
        return find_letter(reply, "ABCD", OPTIONS).answer
    found = find_answer(reply, "A question.", one).answer
    return found.lower() if found else None


@pytest.mark.parametrize(("one", "other"), KINDS)
def test_statements(one: str, other: str) -> None:
    stated, first, second = f"the answer is {one}", one.strip("()"), other.strip("()")
    for verdict in TAKEN_BACK:
        assert read(f"So {stated}. {verdict}", one) is None, verdict
    for verdict in UPHELD:
        assert read(f"So {stated}. {verdict}", one) == first, verdict
    for form in DENIED:
        assert read(form.format(stated), one) is None, form
    for form in MADE:
        assert read(form.format(stated), one) == first, form
    for form in PARALLEL:
        assert read(form.format(one, other), one) is None, form
        assert read(form.format(other, one), one) is None, form
    for form in CORRECTED:
        assert read(form.format(one, other), one) == second, form
    for end in (f"{other} cannot be excluded either.", f"{other} is not wrong either.", f"I can't rule out {other}."):
        assert read(f"So {stated}. {end[0].upper()}{end[1:]}", one) is None, end
    assert read(f"The most likely answer is {one}, though {other} is possible.", one) == first


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The closest would be D, but it is not correct.", None),
        ("(A) for the first part; for the second, (C)", None),
        ("None of the options is right; (B) comes closest, but it is wrong.", None),
        ("I would say (B), but that's not right.", None),
        ("Answer: B (this is wrong)", None),
        ("So the answer is (B), which is incorrect.", None),
        ("It would be a mistake to choose (B).", None),
        ("I would not choose (B).", None),
        ("I'm not convinced that (B) is correct.", None),
        ("I don't have enough information to say whether it is (B).", None),
        ("Either B or D is correct.", None),
        ("First question: (B). Second question: (D).", None),
        ("If x is positive: (B). If x is negative: (C).", None),
        ("The answer is (B). It is hard to exclude D.", None),
        ("The answer is (B). There's also a case for (C).", None),
        ("The answer is (B). (C) is no less correct.", None),
        ("The answer is (B). So is (C).", None),
        ("The answer is B. D may be correct.", None),
        ("The best answer is (B), but (D) is equally right.", None),
        ("The answer is B. Oops, wrong: C.", "C"),
        ("Answer: B\nSo finally: C", "C"),
        ("The answer is (B). Make that (C).", "C"),
        ("The answer is A. No, B. No, C.", "C"),
        ("The best answer is (B), although (D) is plausible.", "B"),
        ("I would not hesitate to choose (B).", "B"),
        ("The answer is (B). (D) can be excluded.", "B"),
        ("The answer is (B). (C) is out of the question.", "B"),
        ("The answer is B; the others (A, C, D) are wrong.", "B"),
        ("The answer is (B). D is true, but it does not answer the question.", "B"),
        ("Answer: B\n\nA. Paris is in France. This is incorrect.\nC. Oslo is cold. This is incorrect.", "B"),
        ("First I thought (A). That's wrong. Then (C). That's wrong too. So (B).", "B"),
    ],
)
def test_letters(reply: str, letter: str | None) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == letter


@pytest.mark.parametrize(
    "reply",
    [
        "So it's {0}. On second thought, {1} is the better choice.",
        "It is {0}. Actually, {1} is better.",
        "My first answer was {0}. Having checked each option again, I'm revising that to {1}.",
        "The answer is {0}. I am changing my answer to {1}.",
        "The answer is {0}. Let me revise that to {1}.",
        "The answer is {0}. My revised answer is {1}.",
        "Answer: ~~{0}~~ **{1}**",
        "The answer is <del>{0}</del> {1}.",
    ],
)
def test_corrections(reply: str) -> None:
    for one, other in (("B", "C"), ("(C)", "(B)")):
        found = find_letter(f"Rome (B) and Oslo (C) are old. {reply.format(one, other)}", "ABCD", OPTIONS)
        assert found.answer == other.strip("()")


@pytest.mark.parametrize(
    "reply",
    [
        "Answer: ~~{}~~ **{}**",
        "The answer is {}. My revised answer is {}.",
        "The answer is {}. I'm changing my answer to {}.",
    ],
)
def test_corrected_numbers_and_words(reply: str) -> None:
    assert find_number(reply.format("12", "13")).answer == "13"
    assert find_word(reply.format("Yes", "No"), ["Yes", "No"]).answer == "No"


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("It is wrong to say that the answer is B", "B", 0.0),
        ("The answer is B. However, this is not correct.", "B", 0.0),
        ("1. The answer is A.\n2. The answer is B.", "B", 0.0),
        ("For men the answer is A; for women the answer is B.", "B", 0.0),
        ("There is no doubt that the answer is B.", "B", 1.0),
        ("The answer is 12. Correction: the answer is 13.", "13", 1.0),
        ("The answer is 1,200.\nThe answer is 1200.", "1200", 1.0),
    ],
)
def test_the_final_answer_of_a_task(reply: str, reference: str, right: float) -> None:
    assert final_answer(reply, [reference]).value == right


def test_gsm8k_numbers_and_judges() -> None:
    assert [
        find_answer(one, "Q", "12").answer for one in ("#### 12", "#### 12\n\nNo wait, 13", "#### 12\n#### 13")
    ] == [
        "12",
        "13",
        None,
    ]
    assert read_answer("Yes. I take that back.") is None


@pytest.mark.parametrize(
    "piece",
    [
        "wait, ",
        "this is not ",
        "The answer is B. That is wrong. ",
        "I don't think that ",
        "for a, A. ",
        "1. Answer: B\n",
    ],
)
def test_statements_are_found_in_good_time(piece: str) -> None:
    assert growth(lambda length: what_holds(piece * (length // len(piece))), 5000) < 12
