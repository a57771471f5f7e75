"""Finding the answer in a reply."""

from __future__ import annotations

import pytest

from tutelage.evaluate.benchmarks.extract import find_letter, find_number, find_phrase, find_word, trim

OPTIONS = ["Paris", "Rome", "Oslo", "Rome in Georgia"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is (B).", "B"),
        ("So the answer is B", "B"),
        ("the answer is b.", "B"),
        ("The answer is (b)", "B"),
        ("THE ANSWER IS B", "B"),
        ("Answer: B", "B"),
        ("**Answer:** (B)", "B"),
        ("The best answer is B!", "B"),
        ("The answer is therefore (B).", "B"),
        ("The correct answer would thus be (B).", "B"),
        ("The answer, then, is B.", "B"),
        ("### Final Answer\n\nB", "B"),
        ("Final answer - (B)", "B"),
        ("(B) is the answer.", "B"),
        ("The answer to the question is option B, I am sure.", "B"),
        ("I think that, of all these, (B) is the correct one, for it is large.", "B"),
        ("The correct choice would be B: Rome.", "B"),
        ("Therefore I would choose B.", "B"),
        ("$\\boxed{B}$", "B"),
        ("The final answer is $\\boxed{\\text{(B)}}$.", "B"),
        ("\\boxed{\\textbf{B}}", "B"),
        ("The answer is \\(B\\).", "B"),
        ("The answer is (B). To repeat, the answer is (B).", "B"),
        ("The answer is (A). Wait, no: the answer is (B).", "B"),
        ("The answer is A. Actually, it is B.", "B"),
        ("At first \\boxed{A}, but after checking \\boxed{B}", "B"),
        ("I changed my answer to B.", "B"),
        ("The answer is not (A). It must be (B).", "B"),
        ("The correct answer is (B) and not (A).", "B"),
        ("The answer is: \n\nB", "B"),
        ('The answer is "B".', "B"),
        ("The answer is Rome.", "B"),
        ("The answer is Rome in Georgia.", "D"),
        ("The answer is A because of its size.", "A"),
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        (" B.", "B"),
        ("B) since it spins", "B"),
        ("A. no\nB. yes\nC. maybe\nI'd go with C.", "C"),
        ("It has to be Rome, which is (B)", "B"),
        ("The answer is a planet.", None),
        ("I do not know.", None),
        ("I cannot choose between A and B", None),
        ("The answer is unclear", None),
        ("", None),
    ],
)
def test_letters(reply: str, letter: str | None) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == letter


def test_letters_beyond_the_options_are_none() -> None:
    assert find_letter("The answer is (E).", "ABCD").answer is None
    assert find_letter("The answer is (E).", "ABCDE").answer == "E"


def test_ten_letters_and_the_pronoun() -> None:
    assert find_letter("The answer is I.", "ABCDEFGHIJ").answer == "I"
    assert find_letter("The answer is (I).", "ABCDEFGHIJ").answer == "I"
    assert find_letter("The answer is I think hard to give.", "ABCDEFGHIJ").answer is None


def test_an_option_that_is_a_number_is_not_found_in_a_longer_one() -> None:
    assert find_letter("The answer is 4.", "ABC", ["3", "4", "4.5"]).answer == "B"
    assert find_letter("The answer is 4.5", "ABC", ["3", "4", "4.5"]).answer == "C"
    assert find_letter("The answer is 4.7", "ABC", ["3", "4", "4.5"]).answer is None


def test_two_options_of_the_same_text_name_no_letter() -> None:
    assert find_letter("The answer is rita.", "ABC", ["rita", "sue", "rita"]).answer is None


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("So the answer is True.", "True"),
        ("the answer is true", "True"),
        ("Z = True and False = False. So the answer is **False**.", "False"),
        ("The answer is not True, it is False.", "False"),
        ("The answer is True. No, the answer is False", "False"),
        ("\\boxed{\\text{True}}", "True"),
        ("True", "True"),
        ("Because of this the expression is True", "True"),
        ("True or False?", None),
        ("It cannot be said.", None),
    ],
)
def test_words(reply: str, word: str | None) -> None:
    assert find_word(reply, ("True", "False")).answer == word


def test_valid_is_not_found_in_invalid() -> None:
    assert find_word("So the answer is invalid.", ("valid", "invalid")).answer == "invalid"
    assert find_word("So the answer is Valid", ("valid", "invalid")).answer == "valid"


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("So the answer is 7.", "7"),
        ("the answer is 3 + 4 = 7.", "7"),
        ("The answer is that I have 9 fruits (5 apples and 4 pears).", "9"),
        ("Answer: 1,234", "1234"),
        ("\\boxed{-12}", "-12"),
        ("the answer is −5", "-5"),
        ("So the answer is seven.", "7"),
        ("The answer is 5. No, the answer is 6", "6"),
        ("the answer is 24.0", "24"),
        ("there are 12 of them", "12"),
        ("none at all", None),
    ],
)
def test_numbers(reply: str, number: str | None) -> None:
    assert find_number(reply).answer == number


def test_phrases_end_with_their_line() -> None:
    assert find_phrase("So the answer is fig pear plum.\nDone.").answer == "fig pear plum."
    assert find_phrase("The answer is:\n\nfig pear").answer == "fig pear"
    assert find_phrase("no idea").answer is None
    assert trim('"fig pear".') == "fig pear"
    assert trim("] ) >.") == "] ) >"
