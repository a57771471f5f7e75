"""The prompt for new inputs, the frame of a task, words, scripts and languages."""

from __future__ import annotations

import pytest

from tutelage.common.types import Conversation, Message
from tutelage.synthesis.likeness import Likeness
from tutelage.synthesis.prompts import (
    Demonstration,
    Frame,
    chat_prompt,
    continuation_input,
    continuation_prompt,
    continuation_stops,
    find_frame,
    repeats_instruction,
    single_turns,
)
from tutelage.synthesis.words import script_of, word_runs, words

TWO = [Demonstration("a", "The cat sat.", "cat"), Demonstration("b", "The dog\nran.", "dog")]


def row(prompt: str, answer: str = "yes", system: str | None = None) -> Conversation:
    turns = [Message("system", system)] if system else []
    return Conversation("", (*turns, Message("user", prompt), Message("assistant", answer)))


def test_the_chat_prompt_is_the_papers_word_for_word():
    assert chat_prompt(TWO) == (
        "You are a data generation assistant. You will be given 2 demonstrations\n"
        "Task: Based on these examples, produce exactly one new input message that matches the same task, language, "
        "and style.\n"
        "Strict requirements: Output only the message content itself. Do NOT include any explanations, quotes, labels, "
        "or the answer.\n"
        "\n"
        "Here are 2 demonstrations:\n"
        "In: The cat sat.\nOut: cat\n\nIn: The dog\nran.\nOut: dog\n"
        "Now, generate exactly one brand-new input message that follows the same task and formatting.\n"
        "Output only the input message content itself. Do not output any answer or extra text."
    )


def test_the_continuation_ends_where_the_next_input_begins():
    text = continuation_prompt(TWO)
    assert text.startswith("You are a data generation assistant. You will be given 2 demonstrations\nTask:")
    assert text.endswith("\n\nIn: The cat sat.\nOut: cat\n\nIn: The dog\nran.\nOut: dog\n\nIn:") is False
    assert text.endswith("demonstrations:\nIn: The cat sat.\nOut: cat\n\nIn: The dog\nran.\nOut: dog\n\nIn:")
    assert "Now, generate" not in text


def test_sampling_stops_at_the_next_field_where_the_tokenizer_has_a_token_for_it():
    from chat_templates import tokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    assert continuation_stops(tokenizer()) == ()  # `Out` is several tokens there
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "ut", "Out"])}, [("u", "t"), ("O", "ut")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    assert continuation_stops(PreTrainedTokenizerFast(tokenizer_object=inner)) == (len(letters) + 1,)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (" A bird flew.\nOut: bird\n\nIn: more", (" A bird flew.\n", True)),
        (" A bird flew.\n\nIn: another", (" A bird flew.\n\n", True)),
        (" A bird: In: the air", (" A bird: In: the air", False)),
        (" A bird", (" A bird", False)),
        (" A bird\nOut", (" A bird\n", True)),  # sampling stopped at the next field's name
        (" A bird\nOut there", (" A bird\nOut there", False)),
        (" A birdOut", (" A birdOut", False)),
    ],
)
def test_an_input_ends_before_the_next_field(written: str, expected: tuple[str, bool]):
    assert continuation_input(written) == expected


def test_the_frame_is_the_whole_lines_that_all_prompts_share():
    task = "Summarize the dialogue.\n\n{}\nWrite one sentence.\nSummary:"
    rows = [row(task.format(f"#Person1#: {text}")) for text in ("Hello!\nHi!", "How are you?", "Hear me")]
    frame = find_frame(rows)
    assert frame == Frame("Summarize the dialogue.\n\n", "\nWrite one sentence.\nSummary:")
    for one in rows:
        prompt = one.prompt[-1].content
        content = frame.content(prompt)
        assert content.startswith("#Person1#: ")
        assert frame.messages(content) == (Message("user", prompt),)
    assert frame.content("#Person1#: Hello!") == "#Person1#: Hello!"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("Translate: a"), row("Translate: b")], Frame()),  # no whole line
        ([row("Say it in German: a b"), row("Say it in German: a c")], Frame("Say it in German: ")),  # but a sentence
        ([row("#Person1#: Say it: a"), row("#Person1#: Say so: a")], Frame()),
        ([row("same"), row("same")], Frame()),
        ([row("a\nb", system="s"), row("a\nc", system="s")], Frame("a\n", "", "s")),
        ([row("a\nb", system="s"), row("a\nc")], Frame("a\n")),
        ([row("a\n"), row("a\nb\n")], Frame("a\n")),
    ],
)
def test_frames_at_the_edges(rows: list[Conversation], expected: Frame):
    assert find_frame(rows) == expected
    for one in rows:
        assert expected.before + expected.content(one.prompt[-1].content) + expected.after == one.prompt[-1].content


def test_only_rows_of_one_question_are_shown():
    longer = Conversation("", (*row("a").messages, Message("user", "b"), Message("assistant", "c")))
    assert single_turns([row("a"), longer, Conversation("", (Message("user", "x"),)), row("b", system="s")]) == [
        row("a"),
        row("b", system="s"),
    ]


def test_words_of_several_scripts():
    assert words("#Person1#: It's  GREAT, isn’t it?\n3.5%") == [
        "person1",
        "it",
        "s",
        "great",
        "isn",
        "t",
        "it",
        "3",
        "5",
    ]
    assert words("প্ৰত্যেকজনেই মৰিব লাগিব।") == ["প্ৰত্যেকজনেই", "মৰিব", "লাগিব"]  # vowel signs do not split words
    assert words("東京へ行く") == ["東", "京", "へ", "行", "く"]
    assert words("ＡＢＣ") == ["abc"]


def test_word_runs_have_the_given_length():
    assert len(word_runs(list("abcdef"), 4)) == 3
    assert word_runs(list("abc"), 4) == []
    assert word_runs(list("xabcdy"), 4)[1] == word_runs(list("abcd"), 4)[0]


def test_scripts_of_letters():
    assert [script_of(c) for c in "aЖ東কひ9 -"] == ["LATIN", "CYRILLIC", "CJK", "BENGALI", "HIRAGANA", None, None, None]


ENGLISH = [
    f"{who} went to the {place} with a friend and they had a good time because it was {what} there"
    for who in ("Anna", "Tom", "She", "He", "My sister", "The old man")
    for place in ("market", "river", "school")
    for what in ("warm", "quiet", "new")
]


@pytest.mark.parametrize(
    ("text", "script", "language"),
    [
        ("They had a walk to the river because the day was warm and long", None, None),
        ("প্ৰত্যেকজনেই মৰিব লাগিব। মই খাবলৈ কিবা কিনিব লাগিব আজি ৰাতি দোকানত", "written in Bengali", "0 %"),
        ("Anna ging an den Fluss, weil dort die Sonne schien und alles ruhig war", None, "words"),
        ("They had a walk प्रत्येक व्यक्ति को मरना होगा to the river", "letters are Devanagari", None),
        ("Das ist gut", None, None),  # too short to judge
        ("1 + 2 = 3", "no letters", None),
    ],
)
def test_likeness(text: str, script: str | None, language: str | None):
    like = Likeness(ENGLISH)
    for complaint, expected in ((like.script_complaint(text), script), (like.language_complaint(text), language)):
        if expected is None or expected == "0 %":
            assert expected == "0 %" or complaint is None
        else:
            assert complaint is not None
            assert expected in complaint


def test_form_is_the_first_word_and_the_length_of_gold():
    like = Likeness([f"#Person1#: {text}" for text in ENGLISH])
    assert like.first == "#Person1#:"
    assert like.form_complaint(f"#Person1#: {ENGLISH[3]}") is None
    assert like.form_complaint(ENGLISH[3]) == "does not begin with `#Person1#:`"
    assert like.form_complaint("#Person1#: Hm, well.") == "3 words, unlike the gold data"
    assert like.form_complaint(f"#Person1#: {' '.join(ENGLISH[:4])}") == "77 words, unlike the gold data"
    assert Likeness(ENGLISH).first is None
    assert Likeness(ENGLISH[:20]).form_complaint("Hm") is None  # too few gold texts


def test_repeating_the_instruction_is_detected():
    assert repeats_instruction(words("Strict requirements: Output only the message content itself, please."))
    assert repeats_instruction(words("I will generate exactly one brand-new input message."))
    assert not repeats_instruction(
        words("You will be given a data book by the assistant, and only the message itself.")
    )


def test_mixed_gold_allows_each_of_its_scripts():
    like = Likeness([*ENGLISH, *["প্ৰত্যেকজনেই মৰিব লাগিব"] * 20])
    assert like.script_complaint("মই খাবলৈ কিবা") is None
    assert like.script_complaint("They had a walk") is None
    assert like.script_complaint("Все люди") == "written in Cyrillic"


def test_too_few_gold_texts_judge_no_language():
    assert Likeness(ENGLISH[:20]).language_complaint("eins zwei drei vier fünf sechs sieben acht neun") is None
    assert Likeness([]).script_complaint("Все") is None
