"""Every filter on explicit cases: texts that it rejects, and similar ones that it must accept."""

from __future__ import annotations

from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.recipe.stages import FilterConfig
from tutelage.synthesis.filters import FilterResult, Filters
from tutelage.synthesis.near_duplicates import minhash
from tutelage.synthesis.prompts import Demonstration

DIALOGUES = [
    (
        f"#Person1#: Hello {name}, did you {verb} the {thing} that I left on the table this morning?\n"
        f"#Person2#: Yes, I did. It was very {how}, and I would like to {verb} it again next {when} with my family."
    )
    for name, thing in (("Anna", "book"), ("Tom", "letter"), ("Eva", "cake"), ("Ben", "ticket"), ("Mia", "map"))
    for verb, how, when in (("see", "good", "week"), ("find", "old", "month"), ("use", "useful", "year"))
]
SUMMARIES = [f"Person {i} asks about something on the table and the other one liked it a lot." for i in range(15)]
GOLD = [Demonstration(f"g{i}", x, y) for i, (x, y) in enumerate(zip(DIALOGUES, SUMMARIES, strict=True))]
NEW = (
    "#Person1#: Where did you go on Sunday?\n#Person2#: I went to the lake with my brother. We would like to go again."
)
EVALUATION = [
    "#Person1#: The quick brown fox that jumps over a lazy dog has never been seen in this town before.",
    "A short one.",
]


def filters(gold: list[Demonstration] = GOLD, evaluation: list[str] = EVALUATION, **config: Any) -> Filters:
    return Filters(FilterConfig(**config), gold, evaluation)


def judged(text: str, finished: bool = True, made: Filters | None = None) -> str | None:
    return (made or filters()).check_input(text, finished, "new").reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NEW, None),
        ("", "empty"),
        (" \n\t", "empty"),
        ("...!?", "empty"),
        # labels, preambles, quotation marks
        (f"Here is a new input message:\n{NEW}", "preamble"),
        (f"Here’s a new one: {NEW}", "preamble"),
        (f"Sure! {NEW}", "preamble"),
        (f"Input: {NEW}", "preamble"),
        (f"In: {NEW}", "preamble"),
        (f"**New input message 1:** {NEW}", "preamble"),
        ("I'm sorry, but I can't do that for you today.", "preamble"),
        (f"Brand-new input message: {NEW}", "preamble"),
        (f"**Input**: {NEW}", "preamble"),
        (f"Here you go:\n{NEW}", "preamble"),
        (f"Here it is: {NEW}", "preamble"),
        (f"Below is a new input message: {NEW}", "preamble"),
        (f"Input message content: {NEW}", "preamble"),
        (f"Generated input: {NEW}", "preamble"),
        (f"Dialogue #11: {NEW}", "preamble"),
        (f"Absolutely! {NEW}", "preamble"),
        (f"Sure thing! {NEW}", "preamble"),
        (f'"{NEW}"', "preamble"),
        (f"```\n{NEW}\n```", "preamble"),
        (NEW.replace("Where", "Here you are. Where"), None),
        (NEW.replace("Where did", "In: what way? Did"), None),  # not at the start
        (NEW.replace("the lake", '"the lake"'), None),
        # an answer in the input
        (f"{NEW}\nSummary: They talk about Sunday.", "carries_answer"),
        (f"{NEW}\nOut: They talk about Sunday.", "carries_answer"),
        (f"{NEW}\n\n**Answer:** Sunday", "carries_answer"),
        (NEW.replace("We would", "The answer: we would"), None),  # within a line
        # script and language
        ("প্ৰত্যেকজনেই মৰিব লাগিব। মই খাবলৈ কিবা কিনিব লাগিব।", "script"),
        ("#Person1#: Где вы были вчера вечером?", "script"),
        # duplicates
        (DIALOGUES[3], "duplicate_of_gold"),
        (DIALOGUES[3].upper().replace("?", " ??"), "duplicate_of_gold"),
        (DIALOGUES[3].replace("my family", "my whole family"), "near_duplicate_of_gold"),
        # contamination
        ("#Person1#: a quick brown fox that jumps over a lazy dog has never been seen in this town", "contamination"),
        ("#Person1#: fox that jumps over a lazy dog has never been seen in our town", None),  # a run of 12
        ("A short one!", "contamination"),
    ],
)
def test_inputs(text: str, reason: str | None):
    assert judged(text) == reason


@pytest.mark.parametrize(
    "end",
    [
        "\n**Answer**: at the lake",
        "\nAns: at the lake",
        "\nAnswer key: at the lake",
        "\nThe correct answer is the lake.",
        "\n**Summary**: They talk.",
        "\nThe summary is: They talk.",
        " Out: They talk.",
    ],
)
def test_labels_of_an_answer_in_the_input(end: str):
    assert judged(NEW + end) == "carries_answer"


def test_an_allowed_label_hides_no_other():
    gold = [Demonstration(f"p{i}", f"Program {i} prints a line\nOutput: {i}", "fine") for i in range(15)]
    made = filters(gold, skip=["near_duplicate_of_gold", "near_duplicate_of_earlier"])
    assert judged("Program 77 prints a line\nOutput: 12", made=made) is None
    assert judged("Program 78 writes two lines\nOutput: 12\nAnswer: fine", made=made) == "carries_answer"


def test_an_instruction_on_the_line_of_the_content_is_no_contamination():
    order = "Please translate the following English sentence into German, keep the tone, and do not add any comment:"
    gold = [Demonstration(f"t{i}", f"{order} the {word} is here", word) for i, word in enumerate("abcdefghijklmno")]
    made = filters(gold, [f"{order} {EVALUATION[0]}"], skip=["near_duplicate_of_gold", "near_duplicate_of_earlier"])
    assert judged(f"{order} we went to a lake", made=made) is None
    assert judged(f"{order} {EVALUATION[0]}", made=made) == "contamination"
    # A run of words in a single gold row is no excuse.
    assert judged(EVALUATION[0], made=filters([*GOLD, Demonstration("bad", EVALUATION[0], "x")])) == "contamination"


def test_invisible_characters_hide_no_contamination():
    assert judged(EVALUATION[0].replace("brown", "bro\u00adwn").replace("jumps", "ju\u200bmps")) == "contamination"


def test_each_kind_of_duplicate_counts_though_another_is_switched_off():
    skip = ["duplicate_of_gold", "near_duplicate_of_gold", "near_duplicate_of_earlier"]
    made = filters(skip=skip, evaluation=[])
    assert [judged(DIALOGUES[0], made=made) for _ in range(2)] == [None, "duplicate_of_earlier"]


def test_inputs_without_letters_if_gold_has_them():
    sums = [Demonstration(f"n{i}", f"{i} + {i * i} + 3 =", f"{i + i * i + 3}") for i in range(20)]
    assert judged("71 + 99 + 5 =", made=filters([*sums, Demonstration("x", "x + y + 3 =", "z")])) is None


def test_a_run_of_thirteen_words_is_found_wherever_it_is():
    run = "fox that jumps over a lazy dog has never been seen in this"
    assert len(run.split()) == 13
    for text in (f"{run} now", f"we say {run}", f"#Person1#: Hm,\n{run.upper()}?! Yes"):
        verdict = filters(skip=["script", "language"]).check_input(text, True, "n")
        assert (verdict.reason, run in verdict.detail) == ("contamination", True)
    twelve = " ".join(run.split()[:12])
    assert judged(f"we say {twelve} that") is None
    assert judged(f"we say {twelve} that", made=filters(contamination_words=12)) == "contamination"


def test_cut_inputs_and_answers():
    assert judged(NEW, finished=False) == "cut"
    assert filters().check_answer(NEW, "They talk.", False).reason == "cut"
    assert filters().check_answer(NEW, " \n", True).reason == "empty"
    assert filters().check_answer(NEW, "They talk about their Sunday at the lake.", True) == FilterResult()


def test_earlier_rows_count_once_they_passed():
    made = filters()
    near = NEW.replace("my brother", "my brothers")
    assert judged(NEW, made=made) is None
    assert judged(NEW.lower(), made=made) == "duplicate_of_earlier"
    assert judged(near, made=made) == "near_duplicate_of_earlier"
    rejected = f"Sure, {DIALOGUES[0][::-1]}"
    assert judged(rejected, made=made) == "preamble"
    assert judged(rejected.removeprefix("Sure, "), made=made) != "duplicate_of_earlier"
    again = filters()
    again.remember(NEW, "read back")
    assert again.check_input(near, True, "x").reason == "near_duplicate_of_earlier"
    assert "read back" in again.check_input(near, True, "x").detail


def test_minhashes_are_those_of_the_library_however_often_a_shingle_was_seen():
    from datasketch import MinHash

    for text in ["the cat sät on the mat", "the cat sät on the mat again and again", "cat", "the cat sät on the mat"]:
        plain = MinHash(num_perm=128, seed=1)
        plain.update_batch([text[i : i + 5].encode() for i in range(max(1, len(text) - 4))])
        assert minhash(text.split()).hashvalues.tolist() == plain.hashvalues.tolist()


def test_the_threshold_of_similarity_decides():
    near = DIALOGUES[3].replace("my family", "my whole family")
    assert judged(near, made=filters(near_duplicate=0.99)) is None
    verdict = filters(near_duplicate=0.3).check_input(near, True, "n")
    assert verdict.nearest == pytest.approx(0.93, abs=0.06)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("They talk about their Sunday at the lake.", None),
        ("Here is the summary: they talk.", "preamble"),
        ("Text: they talk about their Sunday.", "preamble"),
        ("Summary: they talk.", "preamble"),
        ("**Summary**: they talk.", "preamble"),
        ("Answer: they talk about their Sunday.", "preamble"),
        ("In 2020: they went to the lake.", None),
        ("...", "empty"),
        ("I went to the lake with my brother.", "carries_answer"),  # eight words of the input
        ("went to the lake with", None),  # five
        ("Все говорят о воскресенье", "script"),
        ("The quick brown fox that jumps over a lazy dog has never been seen in this town.", "contamination"),
        ("A short one.", None),  # whole texts are compared with inputs only
    ],
)
def test_answers(answer: str, reason: str | None):
    assert filters().check_answer(NEW, answer, True).reason == reason


def test_habits_of_the_gold_rows_are_allowed():
    gold = [Demonstration(f"q{i}", f"Question: how many {x}?\nAnswer:", f"Sure, {x}") for i, x in enumerate("abcdefgh")]
    made = filters(gold)
    assert judged("Question: where are the cats?\nAnswer:", made=made) is None
    assert judged("Text: where are the cats?", made=made) == "preamble"
    assert made.check_answer("Question: where?", "Sure, there", True).reason is None
    extractive = [Demonstration("e", f"Find it: {SUMMARIES[0]} That is all.", SUMMARIES[0])]
    assert filters(extractive).check_answer(f"In here: {SUMMARIES[1]}", SUMMARIES[1], True).reason is None


QUESTIONS = [
    Demonstration(f"arc{i}", f"Which is a {x}?\nA. {x}\nB. b\nC. c\nD. d", letter)
    for i, (x, letter) in enumerate((("rock", "A"), ("plant", "B"), ("star", "D")))
]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("What do magnets do?\nA. pull iron\nB. glow\nC. sing", "A", None),
        ("What do magnets do?\n(A) pull iron\n(B) glow", "B", None),
        ("What do magnets do?\n1. pull iron\n2. glow", "2", None),
        ("What do magnets do?\nA. pull iron\nB. glow\nC. sing", "D", "format"),
        ("What do magnets do?\nA. pull iron\nB. glow\nC. sing", "pull iron", "format"),
        (
            "What do magnets do?\nA. pull iron\nB. glow\nC. sing",
            "A. pull iron",
            "format",
        ),  # the gold answers are single letters
        ("What do magnets do?\nA. pull iron", None, "format"),
        ("What do magnets do?", None, "format"),
        ("What do magnets do?\nA. pull iron\nA. glow\nB. sing", None, "format"),
        ("Q: What do magnets do?\nA: They pull iron.", None, "format"),
        ("Q: What do magnets do?\nA. pull iron\nB. glow", "B", None),
        ("Q: What do magnets do?\nA. pull iron\nB. glow", "Q", "format"),
        ("1. Iron is a metal.\n2. It glows.\nWhich is true?\nA. the first\nB. the second", "B", None),
        ("1. Iron is a metal.\n2. It glows.\nWhich is true?\nA. the first\nB. the second", "1", "format"),
    ],
)
def test_the_answer_is_a_letter_among_the_choices(question: str, answer: str | None, reason: str | None):
    made = filters(QUESTIONS, answer="choice")
    verdict = made.check_input(question, True, "n")
    if answer is not None:
        assert verdict.reason is None
        verdict = made.check_answer(question, answer, True)
    assert verdict.reason == reason


@pytest.mark.parametrize("style", ["{q}\na) {a} b) {b}", "{q} (A) {a} (B) {b}"])
def test_gold_rows_in_another_style_are_an_error(style: str):
    gold = [Demonstration(f"q{i}", style.format(q=f"What is {i}?", a="one", b="two"), "A") for i in range(15)]
    with pytest.raises(TutelageError, match=r"of 15 gold rows 0 have them: write gold rows so, or leave `answer` out"):
        filters(gold, answer="choice")


def test_letters_with_their_text_if_gold_has_them():
    gold = [Demonstration("a", QUESTIONS[0].input, "A. rock")]
    made = filters(gold, answer="choice")
    question = "What do magnets do?\nA. pull iron\nB. glow"
    assert made.check_answer(question, "B. glow", True).reason is None
    assert made.check_answer(question, "C. sing", True).reason == "format"
    assert made.check_answer(question, "Because", True).reason == "format"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"Here is one: {NEW}", "preamble"),
        (f"{NEW}\nSummary: no", "carries_answer"),
        ("#Person1#: Где вы были вчера вечером?", "script"),
        (DIALOGUES[3], "duplicate_of_gold"),
        (DIALOGUES[3].replace("my family", "my whole family"), "near_duplicate_of_gold"),
        (EVALUATION[0], "contamination"),
    ],
)
def test_each_filter_can_be_switched_off_alone(text: str, reason: Any):
    assert judged(text) == reason
    # a switched-off duplicate is still its own near duplicate
    off = [reason, "near_duplicate_of_gold"] if reason == "duplicate_of_gold" else [reason]
    assert judged(text, made=filters(skip=off)) is None
