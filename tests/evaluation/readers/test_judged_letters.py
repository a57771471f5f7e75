"""Options that are called right together are several, also with a noun before each letter or a text behind it."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
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
