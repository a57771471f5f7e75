"""A second answer beside the stated one makes a reply that chooses none; answers of others, and lesser ones, do not."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.judges.protocol import read_answer
from tutelage.evaluation.metrics import final_answer
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Lima"]


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is (B), and (C) is right too.",
        "The answer is B; C would also be acceptable.",
        "The answer is B. C is another correct answer.",
        "I would say B, although C is equally plausible.",
        "Answer: B (but C works too)",
        "Answer: B\n\nAlternative answer: C",
        "The answer is B. Another answer: C.",
        "The answer is B\n\nThe answer is also C",
        "The answer is B. You could also pick C.",
        "I choose B. I also choose C.",
        "The answer is B! Or is it C?",
        "The answer is B (Rome), C (Oslo).",
        "B is right; C is right.",
        "I think B is correct. I also think C is correct.",
        "The answer is B if it is big, C if it is small.",
        "None of (A), (B), (C), (D) is right.",
        "B|C",
        "Answers: A B",
    ],
)
def test_letters_in_other_words(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is B, but C is also possible",
        "The answer is (B) → (D)",
        "The answer is B => D",
        "B ~ D",
        "The answer is B, D being right as well.",
        "The answer is B (D would do as well).",
        "The answer is B, though one could argue for D.",
        "The answer is B. On the other hand, D is just as good.",
        "I'd pick B, although D is equally correct",
        "I'd pick B although I'd accept D.",
        "I lean towards B, then D.",
        "I cannot determine the answer, but (B) is possible",
        "(E)\n(B)",
        "E\nB",
        "1. B\n2. D",
        "Final Answer: B\nFinal Answer: D",
        "The answer is B.\nFinal answer: D",
        "The answer is B. So the answer is D.",
        "I choose B. I choose D.",
        "It may be (B) as well as this one (D) here.",
    ],
)
def test_a_letter_beside_the_stated_one_is_another_answer(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is B, where A = 5 m² is its area.",
        "The answer is (B), a vitamin C of the D isomer.",
        "The answer is B, as C and D have no hills.",
        "The answer is B, unlike A.",
        "The answer is B, and C is smaller.",
        "The answer is (B). It is also possible to reach it from (A).",
        "The answer is (B). For P(A|B) see above. A. Paris is larger\nC. Oslo is smaller",
        "The answer is D. That was my guess; the answer is B.",
        "The answer is obvious. The answer is B.",
        "E is not offered.\nB",
    ],
)
def test_a_letter_that_is_set_aside_is_no_second_answer(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == "B"


@pytest.mark.parametrize(("one", "other"), [("yes", "no"), ("3", "4"), ("valid", "invalid"), ("B", "D")])
def test_two_statements_that_follow_each_other_at_once_are_no_answer(one: str, other: str) -> None:
    for target in (one, other):
        said = f"Final answer: {one}\nFinal answer: {other}"
        assert find_answer(said, "A question.", f"({target})" if target in "BD" else target).answer is None
        assert final_answer(f"The answer is {one}. So the answer is {other}", [target]).value == 0.0
    assert final_answer(f"The answer is {one}. No, wait: the answer is {other}", [other]).value == 1.0


@pytest.mark.parametrize("first", ["B", "(B)", "Option B", "option (B)", "(B) Rome"])
@pytest.mark.parametrize(
    "joint", [" and ", " or ", ", ", "; ", " | ", " then ", " or else ", ", followed by ", " (or ", ". Also ", " vs "]
)
@pytest.mark.parametrize(
    "frame", ["{}", "It is {}.", "Therefore, {}.", "The correct answer is {} because they are cities."]
)
def test_letters(first: str, joint: str, frame: str) -> None:
    second = first.replace("B", "C").replace("Rome", "Oslo") + ")" * ("(" in joint)
    reply = frame.format(first + joint + second)
    assert find_letter(reply, "ABCD", OPTIONS).answer is None, reply


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is B. The worst answer is D.",
        "The best answer is B. The second best answer is C.",
        "The answer is B. Many people say the answer is C, but they are wrong.",
        "The answer is B. One might think the answer is C.",
        "The answer is B. The wrong answer is C.",
        "The answer is B. C is also right, but less so.",
        "The answer is B. B is also the correct answer to the next one.",
    ],
)
def test_a_letter_that_is_not_the_best_is_no_second_answer(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == "B"


@pytest.mark.parametrize(
    ("reply", "target", "right"),
    [
        ("The answer is yes if he knew, no if he did not.", "Yes", False),
        ("The answer is yes, in a sense, and no in another.", "Yes", False),
        ("Yes is the answer, although no is equally defensible.", "Yes", False),
        ("Yes\nNo", "No", False),
        ("Both yes and no are plausible.", "Yes", False),
        ("No one knows.", "No", False),
        ("Some people say the answer is Yes. I say No.", "No", True),
        ("It is unclear whether the argument is valid.", "valid", False),
        ("The argument is valid under one reading and invalid under another.", "valid", False),
        ("Is the argument valid? Yes: the argument is valid.", "valid", True),
        ("The answer is [3, 4].", "3", False),
        ("The answer is 3; 4 also works.", "3", False),
        ("The answer is 3 as well as 4.", "3", False),
        ("The answer is three along with four because of both.", "3", False),
        ("The answer is 3\nor 4", "3", False),
        ("It is 4; 3.", "3", False),
        ("3\n4", "4", False),
        ("The answer is 7.\n\n1. two apples\n2. five pears", "7", True),
        ("The answer is 7 or seven.", "7", True),
        ("So 3, 4, and thus 7.", "7", True),
        ("The answer is Yes along with No because of both.", "Yes", False),
        ("Yes\nor No", "Yes", False),
        ("The right answer is 4. The wrong answer is 3.", "4", True),
        ("The answer is fig pear. Or pear fig.", "fig pear", False),
    ],
)
def test_words_numbers_and_lists(reply: str, target: str, right: bool) -> None:
    assert (find_answer(reply, "A question.", target).answer == target) == right


@pytest.mark.parametrize(
    ("reply", "right"),
    [("I don't think the answer is A", 0.0), ("Many say the answer is A.", 0.0), ("I think the answer is A.", 1.0)],
)
def test_the_final_answer_of_a_task(reply: str, right: float) -> None:
    assert final_answer(reply, ["A"]).value == right


@pytest.mark.parametrize("text", ["Yes if it is short, no if not", "Yes. However, no.", "It is not YES"])
def test_judges(text: str) -> None:
    assert read_answer(text) is None
