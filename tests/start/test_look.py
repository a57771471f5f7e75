"""What is told of rows: kinds of turns, bad rows, gaps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message
from tutelage.data.dataset import load_dataset
from tutelage.recipe.sections import DataConfig
from tutelage.start.look import look_at, measure


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
    assert "bad rows: x.jsonl:6, x.jsonl:12, x.jsonl:18: no reply" in text
    lengths = measure(look, None)
    assert not lengths.exact
    assert all(w == p + r for w, p, r in zip(lengths.whole, lengths.prompts, lengths.responses, strict=True))


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


def csv_of(path: Path, header: str, *rows: str) -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_columns_that_nothing_reads_are_named_with_a_way_to_use_them(tmp_path: Path) -> None:
    rows = [f"q {n * n % 11},a {n % 5},{'billing' if n % 2 else 'shipping'},{2000 + n},x{n}" for n in range(12)]
    file = csv_of(tmp_path / "x.csv", "question,answer,kind,year,id", *rows)
    (line,) = (line for line in look_at("train", [file], None, None).lines() if "not used" in line)
    assert line == (
        "  not used: `kind`, `year` (running numbers); to use `kind`: --prompt '{kind}: {question}' "
        "--completion '{answer}'"
    )
    given = look_at("train", [file], "{kind}: {question}", "answer").lines()
    assert [line for line in given if "not used" in line] == ["  not used: `year` (running numbers)"]
    assert "not used" not in "\n".join(look_at("test", [file], None, None).lines())  # said of the training rows
    two = csv_of(tmp_path / "two.csv", "question,answer", "a,b", "c,d")
    assert "not used" not in "\n".join(look_at("train", [two], None, None).lines())


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"question": "q", "answer": "a", "kind": None}, "--prompt '{?{kind}: ?}{question}' --completion '{answer}'"),
        ({"context": "c", "question": "q", "answer": "a"}, "--prompt '{kind}: {?{context} ?}{question}' --completion"),
        ({"prompt": "q", "completion": "a"}, "--prompt '{kind}: {prompt}' --completion '{completion}'"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            'write `system: "{kind}"` in the recipe\'s data sections',
        ),
    ],
)
def test_the_way_to_use_a_column_is_of_the_rows_form(row: dict[str, Any], hint: str, tmp_path: Path) -> None:
    rows = [{"kind": kind, **row} for kind in ("billing", "shipping")] + [{**row, "kind": "x"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    said = look_at("train", [str(tmp_path / "x.jsonl")], None, None).lines()[1]
    assert said.startswith("  not used: `kind`; to use it")
    assert hint in said


def test_empty_cells_and_the_separator_are_told(tmp_path: Path) -> None:
    rows = [f"kind {n % 3};q {n};a {n}" for n in range(24)]
    rows[2], rows[5], rows[7] = ";q 2;a 2", "kind 1;;a 5", "kind 1;q 7;"
    file = csv_of(tmp_path / "x.csv", "kind;question;answer", *rows)
    said = look_at("train", [file], "question", "answer").lines()
    assert "  x.csv: read as separated by semicolons" in said
    assert "  bad row: x.csv:9: the answer is empty (column `answer`)" in said
    assert "  bad row: x.csv:7: the question is empty (column `question`)" in said
    said = "\n".join(look_at("train", [file], "{kind}: {question}", "answer").lines())
    for column, place in (("kind", "x.csv:4"), ("question", "x.csv:7")):
        assert re.search(rf"column `{column}` is empty, .* in 1 row \({place}\)", said)


@pytest.mark.parametrize("empty", [9, 4])
def test_where_most_bad_rows_lack_an_answer_the_way_to_more_is_named(empty: int, tmp_path: Path) -> None:
    rows = [f"q {n},a {n}" for n in range(10)] + ["q,"] * empty + [",a"] * 5
    file = csv_of(tmp_path / "x.csv", "question,answer", *rows)
    with pytest.raises(TutelageError, match=f"{empty + 5} of {empty + 15} rows are bad") as caught:
        look_at("train", [file], None, None)
    way = "remove them; a teacher can write more (docs/synthetic.md)" if empty > 5 else "mend or remove them"
    assert str(caught.value).endswith(f"; {way}")
    config = DataConfig(path=file, prompt="{question}", completion="{answer}")
    with pytest.raises(TutelageError) as caught:
        load_dataset("train", config, tmp_path)
    assert ("fix them (a teacher can write more: docs/synthetic.md) or raise" in str(caught.value)) == (empty > 5)


BAD: dict[str, tuple[str, str]] = {
    "x.xlsx": ("", "cannot read "),
    "x.csv": ("a,b,a\n1,2,3\n", "has two columns called `a`"),
    "x.jsonl": ("", "the file has no rows: give one with the columns' names in its first line and rows below"),
    "x.json": ("{", "broken JSON at "),
}


@pytest.mark.parametrize("name", BAD)
def test_messages_before_there_is_a_recipe_name_the_file_and_no_key(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(TutelageError, match=message) as caught:
        look_at("train", [str(tmp_path / name)], None, None)
    assert name in str(caught.value)
    assert "train" not in str(caught.value)


def test_a_template_without_columns_is_an_option_and_no_key(tmp_path: Path) -> None:
    file = csv_of(tmp_path / "x.csv", "a,b", "c,d")
    with pytest.raises(TutelageError, match=r"^--completion: the template `{{b}}` names no column"):
        look_at("train", [file], "a", "{{b}}")
    with pytest.raises(TutelageError, match=r"^one file or hub data set is named twice"):
        look_at("train", [file, file], "a", "b")
