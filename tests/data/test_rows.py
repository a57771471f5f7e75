"""Rows in every accepted form, and the reasons for bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_rows import assistant, load, replies, row, system, user, write

from tutelage.common.errors import TutelageError
from tutelage.common.types import Message


def if_missing(column: str) -> str:
    """What is said of a column that rows may lack: plain words, and an example to copy."""
    return (
        f"if rows may lack it, write `{{?{{{column}}}?}}` in the template, or with a text that belongs to it "
        f"`{{?Note: {{{column}}}?}}`: what is between `{{?` and `?}}` is left out where the column is empty"
    )


def test_forms_of_rows(tmp_path: Path) -> None:
    write(
        tmp_path / "x.jsonl",
        {"messages": [system("s"), user("q"), assistant("a"), user("q2"), assistant("a2")]},
        {"prompt": "q", "completion": "a"},
        {"prompt": [system("s"), user("q")], "completion": [assistant("a")]},
    )
    data = load(tmp_path)
    assert [c.messages for c in data.conversations] == [
        (
            Message("system", "s"),
            Message("user", "q"),
            Message("assistant", "a"),
            Message("user", "q2"),
            Message("assistant", "a2"),
        ),
        (Message("user", "q"), Message("assistant", "a")),
        (Message("system", "s"), Message("user", "q"), Message("assistant", "a")),
    ]
    assert [c.source for c in data.conversations] == ["x.jsonl:1", "x.jsonl:2", "x.jsonl:3"]
    assert (data.total, data.bad_rows) == (3, ())


def test_plain_text_is_one_assistant_turn(tmp_path: Path) -> None:
    write(
        tmp_path / "x.jsonl",
        {"messages": [user("q"), assistant("a {b}")]},
        {"text": " ", "messages": [user(" "), assistant("")]},
        {"messages": [user("q")]},
        {"messages": [user("q"), assistant("half \ud83d")]},
    )
    data = load(tmp_path, text="{messages.0.content}\n{messages.1.content}", max_bad_rows=0.8)
    assert [c.messages for c in data.conversations] == [(Message("assistant", "q\na {b}"),)]
    assert data.conversations[0].plain
    assert [bad.reason.partition(" (")[0] for bad in data.bad_rows] == [
        "the text is empty",
        f"column `messages.1.content`: a list there has no `1`; {if_missing('messages.1.content')}",
        "the text has half a character",
    ]
    assert not load(tmp_path, max_bad_rows=0.8).conversations[0].plain
    for key, value in {"system": "", "prompt": "{x}", "completion": "{x}", "references": ["{x}"]}.items():
        with pytest.raises(ValueError, match=rf"plain text has no `{key}`"):
            load(tmp_path, text="{text}", **{key: value})
    write(tmp_path / "y.jsonl", {"text": "A paper.", "references": "its own, as one text", "id": 7})
    (paper,) = load(tmp_path, "y.jsonl", text="{text}").conversations
    assert (paper.id, paper.references) == ("7", ())


def test_choices_become_one_line_each(tmp_path: Path) -> None:
    choices = {"text": ["iron", "a 2nd {x}"], "label": ["A", "B"]}
    write(tmp_path / "x.jsonl", {"question": "Which?", "choices": choices, "answerKey": "B"})
    data = load(tmp_path, prompt="{question}\n{choices}\nLetter:", completion="{answerKey}")
    assert data.conversations[0].messages[0].content == "Which?\nA. iron\nB. a 2nd {x}\nLetter:"
    assert replies(data) == ["B"]
    write(tmp_path / "y.jsonl", *[{"question": "Which?", "choices": {**choices, "label": ["A"]}, "answerKey": "B"}] * 2)
    with pytest.raises(TutelageError, match=r"y\.jsonl:1: column `choices` has 2 texts and 1 labels"):
        load(tmp_path, "y.jsonl", prompt="{choices}", completion="{answerKey}")


def test_templates_precede_other_forms_and_keep_braces_in_the_data(tmp_path: Path) -> None:
    write(
        tmp_path / "x.jsonl",
        {"prompt": "old", "completion": "old", "text": "{n} {", "n": 3, "Best Answer": "B", "s": "{text}"},
    )
    data = load(
        tmp_path,
        prompt='Say {n}: {text} {{n}} {"n": {}}',
        completion="{Best Answer}",
        references=["{n}", "{s}"],
        system="S {n}",
    )
    (only,) = data.conversations
    assert only.messages == (
        Message("system", "S 3"),
        Message("user", 'Say 3: {n} { {n} {"n": {}}'),
        Message("assistant", "B"),
    )
    assert only.references == only.targets == ("3", "{text}")


def test_system_and_references_apply_to_message_rows(tmp_path: Path) -> None:
    write(
        tmp_path / "x.jsonl", row(1, answer=42), {"messages": [system("own"), user("q"), assistant("a")], "answer": 1}
    )
    first, second = load(tmp_path, system="S", references=["{answer}"]).conversations
    assert (first.messages[0], second.messages[0]) == (Message("system", "S"), Message("system", "own"))
    assert (first.references, second.references) == (("42",), ("1",))
    assert len(second.messages) == 3


def test_a_references_column_is_used_unchanged(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "references": ["a", "b"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "references": "a"}) + "\n")
    loaded = load(tmp_path, "own.jsonl", max_bad_rows=0.5)
    assert loaded.conversations[0].references == ("a", "b")
    assert [bad.reason for bad in loaded.bad_rows] == ["`references` is not a list of texts"]


def test_bare_prompts_only_where_no_reply_is_required(tmp_path: Path) -> None:
    write(
        tmp_path / "x.jsonl",
        {"messages": [user("q")]},
        {"prompt": "q"},
        {"messages": [user("q"), assistant("a"), user("r")]},
    )
    data = load(tmp_path, require_response=False)
    assert replies(data) == [None, None, None]
    assert data.conversations[2].prompt == data.conversations[2].messages
    with pytest.raises(
        TutelageError, match=r"data\.gold: no usable row among the 3 of `x\.jsonl`; .*x\.jsonl:1: no reply"
    ):
        load(tmp_path)
    write(tmp_path / "y.jsonl", {"q": "Q", "a": "A"})
    assert load(tmp_path, "y.jsonl", require_response=False, prompt="{q}", references=["{a}"]).conversations[
        0
    ].targets == ("A",)


BAD = [
    ('{"messages": [', "broken JSON: Expecting value: line 2 column 1 (char 15)"),
    ([1], "not an object but a list"),
    ("3", "not an object but a number"),
    ({"q": 1, "a": 2}, "neither `messages` nor `prompt` and `completion` (columns: q, a)"),
    ({"messages": "hello"}, "`messages` is not a list but a text"),
    ({"messages": []}, "empty conversation"),
    ({"messages": ["hello"]}, "turn 1 is not an object with `role` and `content`"),
    ({"messages": [{"role": "user"}]}, "turn 1 is not an object with `role` and `content`"),
    ({"messages": [system("s")]}, "no user turn"),
    ({"messages": [user("q")]}, "no reply"),
    ({"messages": [user("q"), {"role": "bot", "content": "a"}]}, "turn 2 has the unknown role `bot`"),
    ({"messages": [user("q"), {"role": "tool", "content": "a"}]}, "turn 2 has the role `tool`, and no call"),
    ({"messages": [{"role": "developer", "content": "a"}]}, "turn 1 has the role `developer`, which is not supported"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, "turn 1 has the unknown role `['user']`"),
    ({"messages": [assistant("a")]}, "turn 1 (assistant) follows start"),
    ({"messages": [system("s"), assistant("a")]}, "turn 2 (assistant) follows system"),
    ({"messages": [user("q"), user("q"), assistant("a")]}, "turn 2 (user) follows user"),
    ({"messages": [user("q"), assistant("a"), assistant("a")]}, "turn 3 (assistant) follows assistant"),
    ({"messages": [user("q"), system("s"), assistant("a")]}, "turn 2 is a system turn, which may only come first"),
    ({"messages": [user("q"), assistant(" \n")]}, "turn 2 is an empty assistant turn"),
    ({"messages": [user("q"), assistant("")]}, "turn 2 is an empty assistant turn"),
    ({"messages": [user("q"), assistant("a\ud83d")]}, "turn 2 (assistant) has half a character"),
    ({"messages": [user("q"), assistant(None)]}, "the content of turn 2 (assistant) is not a text but null"),
    (
        {"messages": [user({"a": 1}), assistant("a")]},
        "the content of turn 1 (user) is not a text but an object; write its JSON as a text",
    ),
    *(
        (
            {"messages": [user([{"type": "text", "text": "q"}, part]), assistant("a")]},
            f"turn 1 (user): part 2 of its content {reason}",
        )
        for part, reason in (
            ({"type": "text"}, "is `text without a text`, and only text is read: leave out the row or the part"),
            ({"type": "image_url", "image_url": {"url": "u"}}, "is `image_url`, and only text is read: leave out"),
            ({"image": "u"}, "is `image`, and only text is read"),
            ({"type": "thinking", "thinking": "t"}, "is `thinking`, and only text is read"),
            ({"type": "text", "text": "r", "cache_control": {"type": "x"}}, "has `cache_control` beside its text"),
            ("r", 'is a text; write {"type": "text", "text": …}'),
        )
    ),
    ({"prompt": "q", "completion": [assistant("a")]}, "`prompt` (a text) and `completion` (a list) must be two texts"),
    ({"messages": [user("q"), assistant("a"), user(" "), assistant("b")]}, "turn 3 is an empty user turn"),
    ({"prompt": "q", "completion": ""}, "the answer is empty (column `completion`)"),
    ({"prompt": " \n", "completion": "a"}, "the question is empty (column `prompt`)"),
    ({"prompt": {"text": "q"}, "completion": "a"}, "`prompt` (an object) and `completion` (a text)"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=[reason[:40] for _, reason in BAD])
def test_bad_rows_are_listed_with_place_and_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    write(tmp_path / "x.jsonl", row(1), "", bad, row(4))
    data = load(tmp_path, max_bad_rows=0.5)
    assert replies(data) == ["a1", "a4"]
    assert [c.source for c in data.conversations] == ["x.jsonl:1", "x.jsonl:4"]
    assert data.total == 3  # the blank line is not a row
    assert [b.source for b in data.bad_rows] == ["x.jsonl:3"]
    assert data.bad_rows[0].reason.startswith(reason)
    assert "\n" not in data.bad_rows[0].reason


TEMPLATED = [
    (
        {"dialog": "d", "summary": "s"},
        "no column `dialogue`, did you mean `dialog`? (columns: dialog, summary)",
    ),
    (
        {"dialogue": None, "summary": "s"},
        "column `dialogue` is null, not a text or a number; " + if_missing("dialogue"),
    ),
    (
        {"dialogue": ["d"], "summary": "s"},
        "column `dialogue` is a list, not a text or a number; `{dialogue.0}` names a part of it",
    ),
    ({"dialogue": "d", "summary": " "}, "the answer is empty (column `summary`)"),
    ({"dialogue": " ", "summary": "s"}, "the question is empty (column `dialogue`)"),
    ({"dialogue": "d", "summary": "s", "other": ""}, "reference 2 is empty"),
    (
        {"dialogue": "d", "summary": "s"},
        "no column `other` (columns: dialogue, summary); " + if_missing("other"),
    ),
]


def test_a_template_none_of_whose_columns_has_text_is_empty(tmp_path: Path) -> None:
    """Whatever text of its own it has; a gap beside others is only told."""
    write(
        tmp_path / "x.jsonl",
        {"q": "", "c": " ", "a": "x"},
        {"q": "", "c": "c", "a": "x"},
        {"q": "q", "c": "c", "a": ""},
    )
    data = load(tmp_path, prompt="Say it. {c}: {q}", completion="so: {a}", max_bad_rows=1.0)
    assert [row.source for row in data.conversations] == ["x.jsonl:2"]
    assert [(row.source, row.reason) for row in data.bad_rows] == [
        ("x.jsonl:1", "the question is empty (column `c`, `q`)"),
        ("x.jsonl:3", "the answer is empty (column `a`)"),
    ]


@pytest.mark.parametrize(("bad", "reason"), TEMPLATED, ids=[reason[:40] for _, reason in TEMPLATED])
def test_bad_rows_of_templates(tmp_path: Path, bad: Any, reason: str) -> None:
    write(tmp_path / "x.jsonl", {"dialogue": "d", "summary": "s", "other": "o"}, bad)
    data = load(
        tmp_path, prompt="{dialogue}", completion="{summary}", references=["{summary}", "{other}"], max_bad_rows=0.5
    )
    assert [(b.source, b.reason) for b in data.bad_rows] == [("x.jsonl:2", reason)]
