"""What is told of rows: repetitions, kinds of turns, and test rows that are training rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message
from tutelage.start.look import look_at, measure, overlap


def pair(question: str, answer: str = "yes") -> Conversation:
    return Conversation(question, (Message("user", question), Message("assistant", answer)), source=f"f:{question[:3]}")


def test_what_rows_carry_is_counted(tmp_path: Path) -> None:
    user, reply = {"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "It is the postman."}
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, user, reply, user, reply]},
        {"messages": [user, {**reply, "content": "<think>Hm.</think>It is the postman."}]},
        {"messages": [user, reply], "tools": [{"name": "open_door"}], "references": ["A", "B"]},
        *[{"messages": [user, reply]}] * 2,
        {"messages": [user]},
    ]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows * 3 + [rows[0]] * 20))
    look = look_at("train", [str(file)], None, None)
    text = "\n".join(look.lines())
    assert (look.total, len(look.bad), len(look.rows)) == (38, 3, 35)
    assert "23 with several answers; 23 with a system turn; 3 with tools; 3 with thoughts; 3 with references" in text
    # Three kinds of rows are told apart by their turns; all others repeat them.
    assert "32 rows are exact repetitions of others: x.jsonl:4 is x.jsonl:3, x.jsonl:5 is x.jsonl:3, x.jsonl:7" in text
    assert ", … (29 more): remove them, they count twice" in text
    assert "bad row: x.jsonl:6: no reply" in text
    lengths = measure(look, None)
    assert not lengths.exact
    assert all(w == p + r for w, p, r in zip(lengths.whole, lengths.prompts, lengths.responses, strict=True))


def test_overlap_names_equal_prompts_and_counts_near_ones() -> None:
    train = [pair("Where can I park my bicycle at the station?"), pair("How long is the river in the north valley?")]
    test = [
        pair("Where can I  park my bicycle at the station?", "no"),
        pair("Where can I park my bicycle at this station?"),
        pair("Which mountain is higher than all others nearby?"),
    ]
    same, near = overlap(test, train)
    assert (same, near) == ([test[0].source], [test[1].source])


def test_where_only_one_column_has_text_the_others_are_named_with_what_they_hold(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("nr,antwort\n" + "".join(f"{n},Sentence {n % 7} of this table.\n" for n in range(1, 31)))
    with pytest.raises(TutelageError) as caught:
        look_at("train", [str(file)], None, None)
    assert str(caught.value) == (
        f"{file}: a question and an answer are two columns with text, and only `antwort` does. Give --prompt and "
        "--completion (columns: antwort, nr (running numbers))"
    )
    assert look_at("train", [str(file)], "nr", "antwort").form.keys == {"prompt": "{nr}", "completion": "{antwort}"}
