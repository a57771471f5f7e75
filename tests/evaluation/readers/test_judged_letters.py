"""Options that are called right together are several, also with a noun before each letter or a text behind it, and a
last sentence that concludes with several, is an empty form, or withdraws what was stated leaves no answer."""

from __future__ import annotations

import pytest
from growth import LINEAR, growth

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
QUESTION = "Which city?\nOptions:\n(A) Paris\n(B) Rome\n(C) Oslo\n(D) Bonn"


@pytest.mark.parametrize("before", ["", "Rome (B) is old.\n", "So "])
@pytest.mark.parametrize(
    "form",
    [
        "{noun} {} and {noun} {} are correct.",
        "both {noun} {} and {noun} {} are correct.",
        "{noun} {} or {noun} {} is correct.",
        "either {noun} {} or {noun} {} is correct.",
        "{noun} {} as well as {noun} {} would be correct.",
        "{noun} {} and {noun} {} are both right.",
        "{noun} {} & {noun} {} are the correct answers.",
    ],
)
@pytest.mark.parametrize("noun", ["option", "choice", "answer", "statement"])
def test_a_repeated_noun_joins_options(noun: str, form: str, before: str) -> None:
    for one, other in (("B", "D"), ("D", "B"), ("(B)", "(D)"), ("(D)", "(B)")):
        reply = f"{before}{form.format(one, other, noun=noun)}"
        assert find_letter(reply, "ABCD", OPTIONS).answer is None
        assert find_answer(reply, QUESTION, "(B)").answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "(B) Rome and (D) Bonn are both similar.",
        "(D) Bonn and (B) Rome are both correct.",
        "(B) Rome or (D) Bonn is correct.",
        "Option B (Rome) and Option D (Bonn) are correct.",
        "Both (B) Rome and (D) Bonn are correct.",
        "Rome (B) is old. Rome and Bonn are both correct.",
        "D, B are correct.",
    ],
)
def test_their_own_texts_join_options(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    "reply",
    [
        "Option A is wrong and option B is correct.",
        "Option A and option C are wrong, option B is correct.",
        "Between option A and option B, option B is correct.",
        "I compared A and B is correct.",
        "(B) Rome is the oldest, and (D) Bonn is younger.",
        "Option B is right, while option A and option C are similar.",
        "The answer is B. A and C are similar.",
        "Rome is right: Paris and Bonn are not correct. Option B is correct.",
    ],
)
def test_one_of_them_is_called_right(reply: str) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == "B"


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Option B fits best.\n\nLet me know if you'd like me to explain any of the other options!", "B"),
        ("Out of all the options given, option **B** fits best.", "B"),
        ("So B best fits the description.", "B"),
        ("B satisfies the conditions best.", "B"),
        ("After ruling out (A), (C) and the rest, (B) is the only option that is consistent with it.", "B"),
        ("Options B and D fit best.", None),
    ],
)
def test_what_fits_best_is_called_right(reply: str, letter: str | None) -> None:
    assert find_letter(f"Oslo (C) and Rome (B) are discussed above. {reply}", "ABCD", OPTIONS).answer == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The correct answer is J. Option I is also correct.", None),
        ("The answer is I or J.", None),
        ("I would choose I or J.", None),
        ("The answer is D. Let me double check. I now think J is correct.", "J"),
        ("The correct answer is I, not J.", "I"),
        ("The answer is J. I think this is clear.", "J"),
    ],
)
def test_the_letter_i_and_the_pronoun(reply: str, letter: str | None) -> None:
    discussed = "H deals with feedback, I with levels and J with departments.\n\n"
    assert find_letter(discussed + reply, "ABCDEFGHIJ").answer == letter


def test_a_symbol_after_it_is_states_nothing() -> None:
    reply = (
        "For free particles the charge is that of an electron: it is e.\n\nConclusion: Option (B). I hope this helps!"
    )
    assert find_letter(reply, "ABCD", ["1/137", "137", "1/137^2", "137^2"]).answer == "B"


# --- Withdrawn at the end ------------------------------------------------------------------------------

DAYS = ["the day gets longer", "the orbit gets wider", "the day gets shorter", "gravity gets stronger"]
STATED = ["The planet spins faster, so C is right.\n\n", "The best answer is C. ", "So the answer is (C).\n\n"]


def letter(reply: str) -> str | None:
    return find_letter(reply, "ABCD", DAYS).answer


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
def test_a_long_last_sentence_is_read_in_good_time(part):
    assert growth(lambda size: letter("The answer is C. So " + part * size), 4000 // (4 * len(part))) < LINEAR


# --- A stated option denied by its letter or text --------------------------------------------------------

VALUES = ["20 m", "80 m", "1.65 m", "7.6"]


@pytest.mark.parametrize(
    "reply",
    [
        "So the answer is (C). However, C is incorrect.",
        "The answer is (C). Therefore (C) is not correct.",
        "The answer is C. But the car starts from rest, so it is not C.",
        "The answer is (C). But it's not (C).",
        "The answer is (C) 1.65 m. Let me double-check: 10 * 0.28 = 2.8, so 1.65 m is incorrect.",
        "The answer is (C) 1.65 m. But 1.65 m is incorrect.",
        "So the answer is (C). However, (C) does not match our result of 7.7.",
        "I initially thought the answer was (C), but the sum is usually even, so it's not (C).",
        "So it is (C). But option C can't be right.",
        "The answer is C. But wait, C is ruled out by the units.",
    ],
)
def test_a_denial_that_names_the_stated_option_takes_it_back(reply):
    assert find_letter(reply, "ABCD", VALUES).answer is None
    assert find_letter(f"{reply} The answer is (C).", "ABCD", VALUES).answer == "C"
    assert find_letter(f"{reply} The answer is (D).", "ABCD", VALUES).answer == "D"


@pytest.mark.parametrize(
    "reply",
    [
        "A is incorrect, B is incorrect, so C.",
        "The answer is C. However, A is incorrect.",
        "The answer is C, and it is not A.",
        "The answer is (C). If C is not right, then nothing is.",
        'The answer is C. They may object: "But C is incorrect."',
        "The answer is C. It might seem that it is not C, but it is.",
        "The answer is C. But is C incorrect? No.",
        "The answer is C. C is incorrect because mass is kept.",
        "The answer is C. A, B and D are true, but C is incorrect.",
        "The incorrect one is asked for: the answer is C. However, C is incorrect.",
        "The answer is C. But C is not far from D.",
        "The answer is C. However, C is not incorrect.",
        "The answer is C. But 11.65 m is incorrect.",
        "It's not C, I thought at first. But the answer is C.",
    ],
)
def test_what_denies_another_option_or_explains_the_stated_one_leaves_it(reply):
    assert find_letter(reply, "ABCD", VALUES).answer == "C"


def test_what_the_question_asks_for_takes_back_after_a_doubt():
    asks = "the question asks for tomorrow, not today."
    assert letter(f"So the answer is (B). Oh wait, {asks}") is None
    assert letter(f"So the answer is (B). Oh wait, {asks} So the answer is (A).") == "A"
    assert letter(f"So the answer is (B). T{asks[1:]}") == "B"


@pytest.mark.parametrize(
    "ending",
    [
        "The answer is (C). Both (A) and (B) are plausible readings.",
        "The best choice is C. None of the other options (A, B, D) is consistent with it.",
        "Among the options, only C is regressive. B and D are luxury taxes, which are paid by the rich.",
        "Of these, only option C is regressive.",
        "I first considered (A), but it is too long. (B) and (D) are no better. That leaves (C).",
    ],
)
def test_other_options_described_beside_the_answer_leave_it(ending):
    assert find_letter(ending, "ABCD", DAYS).answer == find_letter(ending, "ABCDEFGHIJ").answer == "C"


@pytest.mark.parametrize("part", ["But C is incorrect. ", "it is not C ", "so C does not ", "However, 1.65 m is "])
def test_a_long_denial_is_read_in_good_time(part):
    read = lambda size: find_letter("The answer is C. " + part * size, "ABCD", VALUES)  # noqa: E731
    assert growth(read, 4000 // (4 * len(part))) < LINEAR
