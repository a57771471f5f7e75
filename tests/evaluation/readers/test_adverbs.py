"""An adverb or another verb beside a cue hides no statement: "the correct answer is actually B" is one of B."""

from __future__ import annotations

import pytest

from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.judges.protocol import read_answer
from tutelage.evaluation.metrics import final_answer
from tutelage.evaluation.readers.cues import without_adverbs
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
BEFORE = "The answer is A.\n\nLet me double-check that. "


@pytest.mark.parametrize(
    "adverb",
    [
        *("actually", "in fact", "really", "definitely", "instead", "ultimately", "still", "of course", "indeed"),
        *("clearly", "simply", "therefore", "thus", "probably", "most likely", "now", "most definitely", "in reality"),
        *("undeniably", "after all", "almost certainly", "really therefore", "historically"),
    ],
)
def test_a_statement_is_read_with_any_adverb(adverb: str) -> None:
    for stated in ("answer is {} B.", "answer is {} **B**.", "answer should {} be (B).", "choice must be {} (B) Rome."):
        assert find_letter(f"{BEFORE}The correct {stated.format(adverb)}", "ABCD", OPTIONS).answer == "B"
    for none in ("(A) and (B)", "(E)", "(A) or (B)", "both (A) and (B)", "none of the above", "not given"):
        assert find_letter(f"{BEFORE}The correct answer is {adverb} {none}.", "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    ("ending", "letter"),
    [
        ("So it's actually B.", "B"),
        ("It really must be B.", "B"),
        ("The answer turns out to be B.", "B"),
        ("The answer can only be B.", "B"),
        ("The answer has got to be B.", "B"),
        ("That makes the answer B.", "B"),
        ("The answer seems to be none of these.", None),
        ("The answer turns out to be (E).", None),
        ("So B is the right answer after all.", "B"),
        ("So B is actually the correct answer.", "B"),
        ("A rope isn't mentioned, so B is the correct choice.", "B"),
        ("My mistake, B.", "B"),
        ("Oops, B.", "B"),
        ("I'd now choose B.", "B"),
        ("But, on reflection, I would now say B.", "B"),
        ("Hills are shown; that's definitely B.", "B"),
        ("Hmm, actually no. Rome fits better. B.", "B"),
        ("In the end the answer is still A.", "A"),
        ("Rome is actually older, but Paris is larger.", "A"),
        ("It is now B's turn.", "A"),
        ("At first glance, the answer seems to be B, but Paris is larger.", "A"),
        ("B is possibly the right answer in winter.", "A"),
        ("B would be the right answer if it were older.", "A"),
    ],
)
def test_the_last_statement_counts(ending: str, letter: str | None) -> None:
    assert find_letter(BEFORE + ending, "ABCD", OPTIONS).answer == letter


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("The answer is 12. On closer inspection, the total is actually 11.", "11"),
        ("The answer is 12. Let me recount. The number of fruits is actually 11.", "11"),
        ("The answer is 12. Hmm, I counted the plums twice, so the answer is really 11.", "11"),
        ("The total is actually quite simple: 5 + 7 = 12.", "12"),
    ],
)
def test_a_corrected_total_is_the_answer(reply: str, number: str) -> None:
    assert find_number(reply).answer == number


def test_words_lists_judges_and_final_answers_are_read_with_adverbs() -> None:
    reply = "The answer is True. Let me recheck: not True = False, so the expression is actually False."
    assert find_word(reply, ("True", "False")).answer == "False"
    assert find_word("The answer is Yes. The correct answer is actually No.", ("Yes", "No")).answer == "No"
    listed = find_answer("The answer is actually apple cherry banana.", "", "apple cherry banana")
    assert listed.answer == "apple cherry banana"
    assert read_answer("All of it is there. The answer is actually yes.") == "yes"
    assert final_answer("The answer is actually 7.", ["7"]).value == 1
    assert final_answer("The answer is definitely yes.", ["definitely yes"]).value == 1
    assert final_answer("The answer is actually 7.", ["8"]).answer == "actually 7"


def test_what_limits_a_statement_and_names_stay() -> None:
    assert without_adverbs("it is, in fact, quite clearly B") == "it is B"
    for kept in (
        "B is only right here",
        "it is possibly B",
        "it is monopoly power",
        "it is likely to rain",
        "is Italy.",
    ):
        assert without_adverbs(kept) == kept


@pytest.mark.parametrize("box", [r"6.0\ \text{m/s}", r"6.0\,\text{m/s}", r"6.0~\mathrm{m/s}", r"6.0 \quad \text{m/s}"])
def test_spaces_of_latex_are_spaces(box: str) -> None:
    assert find_letter(rf"Thus \[\boxed{{{box}}}\]", "ABC", ["4.8 m/s", "6.0 m/s", "7.2 m/s"]).answer == "B"
    assert find_number(r"So the answer is $1\,250$.").answer == "1250"


def test_a_statement_that_sets_the_earlier_one_aside_replaces_it() -> None:
    assert find_letter("Answer: A\n\nTherefore the final answer is B, not A.", "ABCD", OPTIONS).answer == "B"
    assert find_letter("Answer: A\n\nTherefore the final answer is B.", "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (
            "At first glance, it seems valid. However, it is about others. Therefore, the argument is invalid.",
            "invalid",
        ),
        ("It may look invalid at first. But every premise is used. Hence the argument is valid.", "valid"),
        ("The argument is valid under one reading and invalid under another.", None),
    ],
)
def test_the_conclusion_of_one_paragraph_is_the_answer(reply: str, word: str | None) -> None:
    assert find_word(reply, ("valid", "invalid")).answer == word


def test_the_result_of_an_expression_is_the_answer() -> None:
    assert find_word("(False or True) and True evaluates to True.", ("True", "False")).answer == "True"
    assert find_word("Did he? Yes or no? → No.", ("Yes", "No")).answer == "No"
    for reply in ("The correct sequence to close the parentheses is: ] ) }", "The remaining brackets are `] ) }`."):
        assert find_answer(reply, "", "] ) }").answer == "] ) }"
    assert find_answer("Close them with either ] ) } or ] } ).", "", "] ) }").answer is None
