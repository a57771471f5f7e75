"""Statements of several answers, of one that is not offered, or of none are wrong, whatever was stated before."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_benchmarks import item_of, scored

from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.evaluation.benchmarks.bbh import find_answer
from tutelage.evaluation.readers.cues import answer_phrase
from tutelage.evaluation.readers.find_answer import find_number, find_word
from tutelage.evaluation.readers.find_letter import find_letter

OPTIONS = ["Paris", "Rome", "Oslo", "Bonn"]
DISCUSSED = "(A) is large. (B) is old, and it has seven hills. "


@pytest.mark.parametrize("before", ["", DISCUSSED, DISCUSSED + "So the answer is (B). Hmm.\n"])
@pytest.mark.parametrize(
    "statement",
    [
        # several options
        "So the answer is (A) and (B).",
        "So the answer is (B) and (D).",
        "The answer is (B) or (D).",
        "The answer is B or D",
        "The answer is either (B) or (D).",
        "The answer is both (A) and (B).",
        "The answer is B/D.",
        "The answer is (B), (D).",
        "The answer is (B), (C), and (D).",
        "The answer is (B) & (C).",
        "The answer is (B) as well as (C).",
        "The answer is (B) Rome and (D) Bonn.",
        "The answer is (B) Rome or (D).",
        "Answer: A, B",
        "Answer: (B) and also (D)",
        "\\boxed{B, D}",
        "\\boxed{\\text{(B) or (D)}}",
        "The correct options are (B) and (C). So the answer is both.",
        "$\\boxed{A}$ and $\\boxed{B}$",
        "\\boxed{A}, \\boxed{B}",
        "\\boxed{\\mathbf{A} \\lor \\mathbf{C}}",
        "The answer is A; C.",
        "The answer is A + C.",
        "The answer is A plus C.",
        "The answer is A together with C.",
        "The answer is A, possibly C.",
        "The answer is A (or C).",
        "The answer is (B) (or perhaps (C)).",
        "The answer is (A), but (C) is also correct.",
        "The answer is (A). (C) would be equally correct.",
        "The answer is:\n- (A)\n- (C)",
        "The answer is:\n\n(A)\n(C)",
        "Answer:\n* A. Paris\n* C. Oslo",
        "The answer is Paris and Rome.",
        "The answer is either Paris or Rome.",
        "Answer: Paris (A) and Rome (B)",
        # an option that is not offered
        "The answer is (E).",
        "So the answer is E.",
        "The answer is (f)",
        "Answer: Z",
        "\\boxed{G}",
        "The best choice is option (E).",
        # none
        "The answer is none of the above.",
        "The answer is neither.",
        "So the answer is neither of them.",
        "The answer is not listed.",
        "The answer is unclear.",
        "The answer is that it cannot be determined.",
        "The answer cannot be determined.",
        "The answer can't be known from the text.",
        "None of the options is correct.",
        "None of the given choices fits.",
        "There is no correct answer.",
        "None of the four options (A, B, C, D) is right.",
        "None of the listed options (A-D) is correct.",
        "None of the options is correct. A is too small, B is too large.",
        "No option is correct. (B) is too small.",
        "The answer is (B) for x > 0 and (D) for x < 0.",
        "The answer is B and I would also accept D.",
        "The answer is not among the options.",
        "The answer is unknown.",
        "The answer is: not enough information.",
        # a change of mind to no answer
        "Actually, neither of them.",
        "On second thought, (A) or (D).",
        "Wait, none of these.",
        "Actually, it cannot be determined.",
    ],
)
def test_a_statement_of_no_single_option_is_the_answer_and_wrong(before: str, statement: str) -> None:
    if not before and statement.startswith(("Actually", "On second", "Wait")):
        before = "Rome. "
    assert find_letter(before + statement, "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize("before", [DISCUSSED, "(B) is old, and it has seven hills. ", "Let us look at (B). "])
@pytest.mark.parametrize(
    "ending",
    [
        "So neither of them.",
        "Neither is right.",
        "Both of them are right.",
        "It cannot be determined.",
        "I cannot decide.",
        "Therefore it is impossible to say.",
        "So both (A) and (B).",
        "(B) or (D)",
        "So it is (B) or (D).",
        "E",
        "(E)",
        "There is not enough information.",
        "There's not enough info.",
        "It's unclear.",
        "I'm not sure.",
        "I am unable to determine the answer.",
        "I refuse to answer.",
        "I'd need more information.",
        "The question has no answer.",
        "No correct answer is offered.",
        "The right answer isn't there.",
        "None of the four is right.",
        "All of the options are wrong.",
        "Every option is incorrect.",
        "Keine der Optionen ist richtig.",
        "以上都不对。",
        "I don't know.",
        "None of these.",
        "All of the above.",
    ],
)
def test_letters_that_were_discussed_do_not_count_before_no_answer(before: str, ending: str) -> None:
    assert find_letter(f"{before}\n{ending}", "ABCD", OPTIONS).answer is None


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is (A) or (B). Wait, the answer is (B).", "B"),
        ("The answer is (E). No, that is not offered: the answer is (C).", "C"),
        ("None of the options is exactly right. The closest is (C).", "C"),
        ("The answer is none of the above. On reflection, the answer is (D).", "D"),
        ("It cannot be determined from the first line. The answer is (B).", "B"),
        ("The answer is (A). None of the other options fits.", "A"),
        ("The answer is (A). Neither (B) nor (C) is right.", "A"),
        ("The answer is (A) and not (B).", "A"),
        ("The answer is (A) because (B) and (C) are small.", "A"),
        ("The answer is (A). (B) and (C) are both wrong.", "A"),
        ("The answer is (A), since both (B) and (C) are small.", "A"),
        ("The answer is (B), and I am sure.", "B"),
        ("The answer is (B) and it has seven hills.", "B"),
        ("The answer is (B). The answer is based on its hills.", "B"),
        ("The answer is (B). The answer is not (A).", "B"),
        ("The answer is (B). Then again, the answer is not (B).", None),
        ("(B)\n\nI don't know how else to put it.", "B"),
        ("The answer is as follows:\n\n(B)", "B"),
        ("Here (B) was discussed. The answer is hard to give.", None),
        ("The answer is (B). All of the other options are wrong.", "B"),
        ("All are wrong except (B).", "B"),
        ("The answer is B; C and D are too small.", "B"),
        ("The answer is B.\n\nC is smaller.", "B"),
        ("The answer is:\n- (B)\n\nIt has seven hills.", "B"),
        ("The answer is Rome, and Oslo is far away.", "B"),
        ("\\boxed{A} was my guess.\n\n\\boxed{B}", "B"),
        ("\\boxed{B}, $\\boxed{\\text{B}}$", "B"),
        ("The answer is B, while (C) is also plausible.", None),
        ("The answer is option B.", "B"),
        ("I would choose A over D and C.", "A"),
        ("The answer is A rather than B.", "A"),
        ("Die Antwort ist (A) oder (B).", None),
        ("La respuesta correcta es (A) y (B).", None),
        ("La réponse est (A) et (B).", None),
        ("答案是 (A) 或 (B)。", None),
        ("答案是（A）、（B）。", None),
        ("答案是（B）。", "B"),
        ("The answer is CHOICE C.", "C"),
        ("Neither A nor B is right, and C and D are wrong too.", None),
        ("None of the options match exactly, so the closest is Rome (option b).", "B"),
        ("None of the options match exactly.\n\nOption A (Paris) is closest. It may be rounding.", "A"),
        ("None match exactly, but Rome is the closest, so the correct answer is 'Rome.'", "B"),
        ("The answer is (B). There is no right answer other than this.", "B"),
        ("The answer is D; A, B, C are too small.", "D"),
        ("Option (c) is correct.", "C"),
        ("Look at (B).\nPerhaps A or C here.", None),
        ("It has to be the one by the hills (B)\nas the map shows.", "B"),
        ("The answer is A. On the map I changed my answer to B.", "B"),
        ("A fits badly. Final answer - B\n\nC is too far north, D too small.", "B"),
        ("A fits badly.\n### Answer\nB\n\n### Why\nC is too far north, D too small.", "B"),
        ("By the hills I am going with B. C is far and D too.", "B"),
        ("Oslo has no hills. Therefore B. Then C is far and D too.", "B"),
        ("By the hills I take answer (B) here. Then (D) has none.", "B"),
        ('{"reasoning": "A is too small, B too", "answer": "C"}', "C"),
    ],
)
def test_other_statements_are_read_as_before(reply: str, letter: str | None) -> None:
    assert find_letter(reply, "ABCD", OPTIONS).answer == letter


@pytest.mark.parametrize(
    "reply",
    [
        "0The answer is {1}.",
        "0The answer is ({0}), {1}.",
        "1The answer is ({0}) {1}.",
        "2The answer is {1}.",
        "3The answer is {1}.",
    ],
)
def test_the_text_of_an_option_may_begin_with_letters_or_deny(reply: str) -> None:
    options = ["I and II", "is not linked to health", "a) 5 kg, b) 6 kg", "E = 5 r"]
    letter = "ABCD"[int(reply[0])]
    stated = reply[1:].format(letter, options["ABCD".index(letter)])
    assert find_letter(stated, "ABCDEFGHIJ", [*options, "None", "5", "6", "7", "8", "9"]).answer == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is none of the above.", "C"),
        ("So the answer is none of these.", "C"),
        ("(A) is large. None of the options is correct.", "C"),
        ("The answer cannot be determined.", "D"),
        ("The answer is ambiguous.", None),
        ("(A) is large.\nIt cannot be determined.", "D"),
    ],
)
def test_a_refusal_that_is_an_option_is_that_option(reply: str, letter: str | None) -> None:
    options = ["Paris", "Rome", "None of the above", "It cannot be determined from the text"]
    assert find_letter(reply, "ABCD", options).answer == letter
    assert find_letter("The answer is ambiguous.", "ABC", ["the cook", "the maid", "Ambiguous"]).answer == "C"


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("The answer is yes and no.", None),
        ("So the answer is Yes or No.", None),
        ("The answer is Yes/No", None),
        ("The answer is both yes and no.", None),
        ("Yes, it seems. So the answer is neither.", None),
        ("Yes, it seems. The answer is neither yes nor no.", None),
        ("The answer is yes. Hmm. The answer is unclear.", None),
        ("The answer is yes. Actually, it cannot be determined.", None),
        ("It might be yes. The answer cannot be determined.", None),
        ("It might be yes.\nIt cannot be determined.", None),
        ("The answer is maybe.", None),
        ("The answer is yes or no. Wait, the answer is no.", "No"),
        ("The answer is unclear at first, but the answer is yes.", "Yes"),
        ("The answer is no, it cannot be determined.", "No"),
        ("The answer is yes; no.", None),
        ("\\boxed{yes} and \\boxed{no}", None),
        ("The answer is yes, but also no.", None),
        ("The answer is yes or possibly no.", None),
        ("The answer is yes and, in another sense, no", None),
        ("So the answer is perhaps. Yes is a possibility.", None),
        ("Answer: No, because yes would need intent.", "No"),
        ("Yes at first. Wait, no: yes would need intent.", "Yes"),
        ("So the answer is no.", "No"),
        ("Yes is possible. It cannot be determined from this text whether he went back to the start or not.", None),
        ("Yes it does return\nto the start.", "Yes"),
    ],
)
def test_words(reply: str, word: str | None) -> None:
    assert find_word(reply, ("Yes", "No")).answer == word


def test_a_result_of_words_is_not_two_answers() -> None:
    assert find_word("So the answer is True and False = False.", ("True", "False")).answer == "False"
    assert find_word("So the answer is True and False is False.", ("True", "False")).answer == "False"
    assert find_word("So the answer is True or False.", ("True", "False")).answer is None
    assert find_word("The answer is valid and invalid.", ("valid", "invalid")).answer is None


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("the answer is 3 or 4", None),
        ("The answer is either 3 or 4.", None),
        ("The answer is between 3 and 4.", None),
        ("The answer is 3/4 of them", None),
        ("The answer is 3, 4.", None),
        ("The answer is 1, 2 or 3.", None),
        ("The answer is 3 apples or 4 apples.", None),
        ("The answer is three or four.", None),
        ("The answer is 3 (or 4).", None),
        ("\\boxed{3 \\text{ or } 4}", None),
        ("I count 3. So the answer is 3. The answer is 3 or 4.", None),
        ("I count 3. The answer cannot be determined.", None),
        ("I count 3.\nIt cannot be determined.", None),
        ("I count 3. The answer is unknown.", None),
        ("The answer is 3. Actually, 3 or 4.", None),
        ("There are 3 or 4.", None),
        ("\\boxed{3} or \\boxed{4}", None),
        ("The answer is 3 (possibly 4).", None),
        ("The answer is 3-4.", None),
        ("The answer is ±3.", None),
        ("The answer is 3 or more.", None),
        ("The answer is at least 3.", None),
        ("The answer is:\n- 3\n- 4", None),
        ("The answer is undefined; 3 was tried.", None),
        ("The answer is 3 if the stove counts, and 4 otherwise.", None),
        ("The answer is 7 = 3 + 4.", "7"),
        ("The answer is three: 1 + 2.", "3"),
        ("The answer is 8 - 3 = 5.", "5"),
        ("The answer is - 3.", "-3"),
        ("The answer is 3 or 4. No, the answer is 4.", "4"),
        ("The answer is 7: 3 apples and 4 pears.", "7"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is 7 and that is it.", "7"),
        ("The answer is 7, since 3 and 4 make 7.", "7"),
        ("There are 3 apples and 4 pears, 7 in all.", "7"),
        ("The answer is 1,234.", "1234"),
        ("The answer is 7 or seven.", "7"),
    ],
)
def test_numbers(reply: str, number: str | None) -> None:
    assert find_number(reply).answer == number


@pytest.mark.parametrize(
    "reply",
    [
        "So the answer is ] or ).",
        "The answer is ]; ).",
        "\\boxed{]} or \\boxed{)}",
        "The answer is ], ).",
        "The answer is unclear.",
    ],
)
def test_brackets(reply: str) -> None:
    assert find_answer(reply, "( [", "]").answer is None


@pytest.mark.parametrize(("name", "id"), [("mmlu_pro", "11"), ("gpqa", "rec2"), ("arc_challenge", "Q_2")])
@pytest.mark.parametrize(
    "reply",
    [
        "So the answer is ({0}) and ({1}).",
        "({0}) or ({1})",
        "I looked at ({0}). The answer is (Z).",
        "({0})? So neither of them.",
    ],
)
def test_every_multiple_choice_counts_no_answer_as_wrong(data: Path, name: str, id: str, reply: str) -> None:
    target = item_of(BENCHMARKS[name], data, id).targets[0]
    other = next(letter for letter in "ABCD" if letter != target)
    for pair in ((target, other), (other, target)):
        record = scored(name, data, id, reply.format(*pair))
        assert (record.answer, record.scores["accuracy"]) == (None, 0)


def test_bbh_counts_no_answer_as_wrong_and_reports_the_official_reading(data: Path) -> None:
    for reply in ("So the answer is (A) and (B).", "(B) or (A)", "(B) is odd. So the answer is (E).", "(B)? Neither."):
        assert scored("bbh", data, "snarks/0", reply).scores["accuracy"] == 0
    assert scored("bbh", data, "snarks/0", "So the answer is (B).").scores["accuracy_official"] == 1
    assert scored("bbh", data, "snarks/0", "So the answer is B.").scores["accuracy_official"] == 0
    assert scored("bbh", data, "snarks/0", "\\boxed{(B)}").scores["accuracy_official"] == 0
    late = "the answer is (A).\n\nSo the answer is (B)."
    assert scored("bbh", data, "snarks/0", late).scores["accuracy_official"] == 1
    bench = BENCHMARKS["bbh"]
    item = item_of(bench, data, "snarks/0")
    metrics = bench.summarise(bench.score([item], {item.id: Reply("So the answer is (B).")}))["metrics"]
    assert metrics["accuracy_official"]["value"] == 100


def test_the_official_reading_of_bbh_is_what_follows_the_last_statement() -> None:
    assert answer_phrase("So the answer is (A). So the answer is  (B). ") == "(B)"
    assert answer_phrase("the answer is ] ) .\n") == "] )"
    assert answer_phrase("(B)") is None


@pytest.mark.slow
def test_options_of_real_tasks(data_folder: Path) -> None:
    """Every multiple-choice question of BBH: its target alone is right, with another option beside it is wrong."""
    for item in BENCHMARKS["bbh"].load(data_folder, limit=270):
        target, question = item.targets[0], item.row["input"]
        if not (target.startswith("(") and target[1:2].isalpha()):
            continue
        other = "(A)" if target != "(A)" else "(B)"
        assert find_answer(f"So the answer is {target}.", question, target).answer == target
        for reply in (f"{target} and {other}", f"{other} or {target}", f"{target}, {other}"):
            assert find_answer(f"{target} fits. So the answer is {reply}.", question, target).answer is None
        assert find_answer(f"{target} fits. So the answer is (Z).", question, target).answer is None
