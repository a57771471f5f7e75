"""Finding the answer in a reply."""

from __future__ import annotations

import pytest
from growth import growth

from tutelage.evaluation.readers.find_answer import find_number, find_phrase, find_word, trim
from tutelage.evaluation.readers.find_letter import find_letter

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
        ("The answer is (A). On second thought, (B) is correct.", "B"),
        ("The answer is A. Wait, no. I choose B.", "B"),
        ("The answer is A. Actually, B.", "B"),
        ("The answer is A, no, B.", "B"),
        ("The answer is (B). Actually, A and C are both wrong.", "B"),
        ("I first thought the answer was A, but the correct option is B.", "B"),
        ("the answer is b because it is big", "B"),
        ("answer: 'B'", "B"),
        ("Since A and C are false, we choose B.", "B"),
        ("A is wrong. C is wrong. Therefore B.", "B"),
        ("(A) is not right. (B) fits best.", "B"),
        ("The answer is not A.", None),
        ("The answer is not (A).", None),
        ("Rome", "B"),
        ("**rome in Georgia.**", "D"),
        ("B. Rome", "B"),
        ("(D) Rome in Georgia", "D"),
        ("The answer is a planet.", None),
        ("I do not know.", None),
        ("I cannot choose between A and B", None),
        ("The answer is unclear", None),
        ("", None),
        # an opening answer, then an explanation
        ("C\n\nThis is because plants need light.", "C"),
        ("**B**\n\nExplanation: plants need light.", "B"),
        ("Option D\n\nPlants need light.", "D"),
        ("B\n\nThe year is 1937, and (A) is a year later.", "B"),
        ("C) Oslo\n\nA) is wrong. B) is wrong.", "C"),
        ("C. Oslo\n\nA. is wrong", "C"),
        ("A\n\nA plant needs light.", "A"),
        ("A\n\nP(A|B) = 11/4.", "A"),
        ("C, because it is cold.\n\nA: too hot", "C"),
        ("B\n\nLet me check.\n\nC", "C"),
        ("A plant needs light.\n\nIt is hard.", None),
        # a mere list of the options
        ("A. Paris\nB. Rome\nC. Oslo\nD. Rome in Georgia", None),
        ("(A) Paris\n(B) Rome\n(C) Oslo\n(D) Rome in Georgia\n", None),
        ("A. one\nB. two\nC. three\nD. four", None),
        ("(A) one (B) two (C) three (D) four", None),
        ("A\n\nB\n\nC\n\nD", None),
        ("A. Paris\nB. Rome\nC. Oslo\nD. Rome in Georgia\n\nC. Oslo", "C"),
        ("A. Paris\nB. Rome\nC. Oslo\nD. Rome in Georgia\n\nC", "C"),
        # denied, and left open
        ("The answer is (D). The incorrect answer is (A).", "D"),
        ("The answer is (C). A wrong answer is (B).", "C"),
        ("Wrong answers: A, B, D. Correct: C", "C"),
        ("The answer isn't C.", None),
        ("The answer can't be (C)", None),
        ("The answer cannot be C.", None),
        ("The answer is neither A nor B.", None),
        ("C is wrong", None),
        ("(C) is incorrect.", None),
        ("Not A, not B, not D.", None),
        ("The answer is not A, B.", "B"),
        ("The answer is (A), not (B) or (C).", "A"),
        ("The answer is not B or C. It is A.", "A"),
        ("The answer is (A) and (B) is wrong.", "A"),
        ("The answer is (A), (B) being wrong.", "A"),
        ("The answer is (A) or (B).", None),
        ("Either (A) or (C)", None),
        ("A/B", None),
        ("A, B", None),
        ("A and B", None),
        ("(A) (B) (C) (D)", None),
        # changes of mind
        ("The answer is A? No: C.", "C"),
        ("(A) Wait, (C)", "C"),
        ("The answer is A... Wait. Actually C.", "C"),
        ("Correct answer: A. Edit: C", "C"),
        ("Initially the answer is A; however, after checking, B.", "B"),
        # marks of emphasis
        ("The answer is <b>C</b>.", "C"),
        ("The answer is <strong><i>C</i></strong>.", "C"),
        ("The answer is _C_.", "C"),
        ("option c", "C"),
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
    assert find_letter("The answer is (A) and I am sure.", "ABCDEFGHIJ").answer == "A"


def test_an_option_that_is_a_number_is_not_found_in_a_longer_one() -> None:
    assert find_letter("The answer is 4.", "ABC", ["3", "4", "4.5"]).answer == "B"
    assert find_letter("The answer is 4.5", "ABC", ["3", "4", "4.5"]).answer == "C"
    assert find_letter("The answer is 4.7", "ABC", ["3", "4", "4.5"]).answer is None


def test_options_are_read_like_replies() -> None:
    options = ["$4,004 for **each**", "$\\text{5}$ kg", "b", "It is sure that C is true"]
    assert find_letter("The answer is $4,004 for each.", "ABCD", options).answer == "A"
    assert find_letter("So \\boxed{5 kg}", "ABCD", options).answer == "B"
    assert find_letter("b", "ABCD", options).answer == "B"  # a letter is a letter, also where it is an option's text
    assert find_letter("It is sure that C is true", "ABCD", options).answer == "D"
    assert find_letter("The answer is both A and B.", "ABC", ["x", "y", "both A and B"]).answer == "C"


@pytest.mark.parametrize(
    "piece",
    ["\n", '"', "the answer is ", "I choose ", "answer\n", "\\boxed{", "\\boxed{A}, \\boxed{B}, ", "wait, no, "],
)
@pytest.mark.slow
def test_replies_that_go_in_circles_are_read_in_good_time(piece: str) -> None:
    def read(length: int) -> None:
        reply = piece * (length // len(piece))
        assert find_letter(reply, "ABCD", OPTIONS).answer is None
        assert (find_number(reply).answer, find_word(reply, ("True", "False")).answer) == (None, None)
        assert len(trim(find_phrase(reply).answer or reply)) <= length

    assert growth(read, 1000) < 30  # quadratic at worst


@pytest.mark.parametrize("piece", ["\n", " \n", "A or ", "A, ", "A/", "not A ", "A is ", "(A) and ", "A; "])
@pytest.mark.slow
def test_letters_are_found_in_linear_time(piece: str) -> None:
    assert growth(lambda length: find_letter(piece * (length // len(piece)), "ABCD", OPTIONS), 10_000) < 8


@pytest.mark.parametrize(
    "piece", ["none of the ", "neither ", "(A) and ", "3 or ", "yes or ", "so ", "answer is not (A) "]
)
@pytest.mark.slow
def test_refusals_are_read_in_good_time(piece: str) -> None:
    def read(length: int) -> None:
        reply = piece * (length // len(piece))
        find_letter(reply, "ABCD", OPTIONS)
        find_number(reply)
        find_word(reply, ("Yes", "No"))

    assert growth(read, 1000) < 30  # quadratic at worst


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
        ("The answer is True. On second thought, it is False.", "False"),
        ("True or False?", None),
        ("**True**\n\nFirst, False and False is False.", "True"),
        ("True\n\nLet me check.\n\nFalse", "False"),
        ("The answer isn't True.", None),
        ("It cannot be said.", None),
    ],
)
def test_words(reply: str, word: str | None) -> None:
    assert find_word(reply, ("True", "False")).answer == word


def test_no_before_another_word_is_not_an_answer() -> None:
    assert find_word("There is no way to know.", ("Yes", "No")).answer is None
    assert find_word("Yes. There is no doubt about it.", ("Yes", "No")).answer == "Yes"
    assert find_word("I would say no.", ("Yes", "No")).answer == "No"


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("Yes\n\nExplanation: there is no offset, no.", "Yes"),
        ("Yes\n\nLeft, then right, no offset.\n\nSo the answer is No.", "No"),
        ("The answer is no because we end three steps away.", "No"),
        ("The answer is no because he plays hockey.", "No"),
        ("Yes. Actually, no.", "No"),
        ("Yes. On second thought, no.", "No"),
        ("No, wait: yes", "Yes"),
        ("No. Wait, no: yes.", "Yes"),
        ("No, you do not.", "No"),
        ("\nNo, you do not. There is no yes.", None),
    ],
)
def test_yes_and_no(reply: str, word: str | None) -> None:
    assert find_word(reply, ("Yes", "No")).answer == word


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
        ("I have seven fruits.", "7"),
        ("The answer is minus 7", "-7"),
        ("The answer is - 7", "-7"),
        ("\\boxed{1{,}234}", "1234"),
        ("The answer is 5. Wait, it is 6.", "6"),
        ("The answer is 5. Actually, that counts the 2 pears too.", "5"),
        ("8\n\nExplanation: 2 of them are red.", "8"),
        ("eight\n\nExplanation: 2 of them are red.", "8"),
        ("2\n5\n7", "7"),
        ("2\n\n2 + 5 = 7. So the answer is 7.", "7"),
        ("There are 8 (2 + 4) of them.", "8"),
        ("The answer is 8 because 2 + 4 = 6 and two more.", "8"),
        ("The answer is not 8.", None),
        ("The answer cannot be 8.", None),
        ("The answer is not 8 but 9.", "9"),
        ("twenty-one", None),
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
