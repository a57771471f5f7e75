"""What a reply says last counts: several options, one that is not offered, or none is no answer, in any wording."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.judges.protocol import read_answer
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
DISCUSSED = "(A) is large. (B) is old, and it has seven hills. "
STATED = DISCUSSED + "So the answer is (B). Hmm.\n"


@pytest.mark.parametrize("before", ["", DISCUSSED + "\n", STATED])
@pytest.mark.parametrize(
    "ending",
    [
        # several
        "The answers are (A) and (B).",
        "The correct options are B and C.",
        "The answer could be (B) or (D).",
        "The answer is probably B, but could be D.",
        "The answer is (B), but also (D).",
        "The answer is (B), or alternatively (D).",
        "The answer is B | D",
        "The answer is B ∨ D",
        "The answer is *(B)* or *(D)*.",
        "The answer is 'B' and 'D'.",
        "The answer is “B” or “D”.",
        "The answer is (B)? Maybe (D).",
        "The answer is (B). Also (D).",
        "The answer is B. Another answer is D.",
        "One answer is B. The other answer is D.",
        "The answer is A to C.",
        "The answer is A–C.",
        "The answer is BD.",
        "The answer is two options: (B) and (D).",
        "The answer is not only (B) but also (D).",
        "Answer: B D C",
        "Answer:\n1. B\n2. D",
        "\\boxed{B D}",
        "\\boxed{\\{B, D\\}}",
        "The correct answers are:\n1. **B** Rome\n2. **D** Bonn",
        "The correct answers are:\n\n* B: Rome is old.\n* D: Bonn is small.",
        "If X holds, the answer is (D). If X does not hold, the answer is (B).",
        "If X holds, then the answer is D, but when it does not, the answer is B.",
        "(B) is correct and (D) is correct.",
        "(B) is correct. (D) is also correct.",
        "Both B and D are correct.",
        # not offered
        "(E) is correct.",
        "Option E is the answer.",
        "I choose E.",
        "The answer is [E].",
        "The answer is e.",
        "The answer is E because it is big.",
        "The answer is E Madrid.",
        "The answer is Madrid.",
        "The answer is (Ｅ).",
        "答案：Ｅ",
        # none
        "The answer is (B). Wait, no, that is incorrect.",
        "**Answer: B**\n\nHmm, that's not right.",
        "The answer is D. Wait, (D) is not right.",
        "Answer: (D) Bonn\nAnswer: (B) Rome",
        "The answer is B. Wait, I made a mistake. Rome is not",
        "None of (A)-(D).",
        "The answer is none of A, B, C or D.",
        "The answer is everything.",
        "The answer is missing.",
        "The answer is: I don't know.",
        "None of these.",
        "Neither!",
        "No option fits.",
        "No options match.",
        "There isn't a correct answer.",
        "Not a single option fits.",
        "They are all correct.",
        "All are wrong.",
        "Either could be right.",
        "It cannot be determined.",
        "It depends.",
        "Hard to say.",
        "No idea.",
        "I give up.",
        "I won't choose.",
        "I choose neither.",
        "I can't help with that.",
    ],
)
def test_the_last_statement_names_no_single_option(before: str, ending: str) -> None:
    assert find_letter(before + ending, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize("ending", ["(E) Madrid", "E) Madrid", "E. Madrid", "Neither (A) nor (B)."])
def test_the_last_line_names_no_option_that_was_offered(ending: str) -> None:
    assert find_letter(f"{DISCUSSED}\n{ending}", "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "I cannot determine the answer. Option (B) names him, but it is unclear.",
        "It is not possible to determine whether (D) or (B) is right.",
        "As a language model, I cannot choose an option. Option (B) is commonly preferred.",
        "There is not enough information to answer the question. Option (B) would need more data.",
    ],
)
def test_an_option_that_is_named_after_a_refusal_is_not_chosen(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is (D). Wait, that's not right. The hills are in Rome, so it is (B).",
        "The answer is (B). Wait, this is wrong? No, it is right.",
        "The answer is (B). Wait, that is not right... Actually, it is right.",
        "The answer is (B). Actually, it is wrong to say that Paris is old.",
        "We cannot determine the answer directly, so test each. (A) fails. (C) fails. (D) fails. Only (B) works.",
        "If x > 0, the answer is (A). If x < 0, the answer is (B). Since x = -1, (B).",
        "Answer: (B) Rome\nFinal answer: (B)",
        "I cannot determine the answer with certainty, but I would go with (B).",
        "If X holds, the answer is (B). If X does not hold, the answer is (B).",
        "The answer is (Ｂ)。",
        "Answer：Ｂ",
        "（Ｂ）",
        "*(B)*",
        "* A is large\n* C is small\nSo the answer is *B*.",
        "The answer is B. C and D are smaller.",
        "The answer is (B) Rome. (A) Paris is larger.",
        "The answer is B.\n\nExplanation:\n- A: too large\n- C: too small",
        "**Answer: B**\n\nA. Paris is larger.\nC. Oslo is colder.",
        "The answer is (B). Also, (A) is far away.",
        "The answer is (B), with (D) a close second.",
        "The answer is B.\nBoth A and C are wrong.",
        "The answer is B.\nNothing else fits.",
        "The answer is B.\nNo other option fits.",
        "The answer is B.\nThis is not known to many.",
        "The answer is B.\nE. coli is a bacterium.",
        "(A) is correct in winter. However, (B) is correct.",
        "If X is true then (B) is correct.",
        "E is not offered, so the answer is (B).",
        "The answer is London, i.e. (B).",
        "It is hard to say, but (B).",
        "Either way, (B).",
        "I don't know, but I'd go with (B).",
    ],
)
def test_one_option_is_still_read(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == "B"


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("The answer is Yes.\nI don't know.", None),
        ("So the answer is Yes.\nIt cannot be determined.", None),
        ("The answer is Yes | No", None),
        ("The answer is Yes. Wait, that's not right.", None),
        ("If X holds, the answer is yes. If it does not hold, the answer is no.", None),
        ("The answer is No, but it could also be yes.", None),
        ("The answer is Yes? No?", None),
        ("Answer: Yes No", None),
        ("Yes is tempting.\nYes/No", None),
        ("No idea.", None),
        ("The answer is Ｎｏ。", "No"),
        ("The answer is yes, no doubt.", "Yes"),
        ("The answer is Yes.\nNo further steps.", "Yes"),
    ],
)
def test_words(reply: str, word: str | None) -> None:
    assert find_word(reply, ("Yes", "No")).answer == word


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("The answer is 3.\nI don't know.", None),
        ("I count 3. No idea.", None),
        ("The answer is 3, but could be 4.", None),
        ("The answer is 3 | 4", None),
        ("The answer is 3. Or 4.", None),
        ("The answer is 3+.", None),
        ("The answer is 3. Wait, that's wrong.", None),
        ("If plums count, the answer is 4. If they do not, the answer is 3.", None),
        ("The answer is > 3", None),
        ("The answer is 3 + 4.", None),
        ("The answer is ３.", "3"),
        ("The answer is 2*3 = 6.", "6"),
        ("The answer is 3.\nNone of the others count.", "3"),
    ],
)
def test_numbers(reply: str, number: str | None) -> None:
    assert find_number(reply).answer == number


@pytest.mark.parametrize("reply", ["The answer is ] ) | ] ]", "The answer is ] )? Or ] ]"])
def test_brackets(reply: str) -> None:
    assert find_answer(reply, "( [", "] )").answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes | No", None),
        ("Yes? No?", None),
        ("Answer: YES\nAnswer: NO", None),
        ("YES\n\nYES", "yes"),
        ("Yes. No errors were found.", "yes"),
        ("No idea.", None),
        ("No doubt: YES", "yes"),
    ],
)
def test_judges(text: str, answer: str | None) -> None:
    assert read_answer(text) == answer
