"""The forms in which people keep rows: read, or told what to write in the recipe."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from chat_rows import assistant, load, replies, row, system, user, write
from hypothesis import given
from hypothesis import strategies as st

from tutelage.common.errors import TutelageError
from tutelage.common.types import Message
from tutelage.data.columns import BadRowError, fill_template
from tutelage.data.dataset import load_dataset
from tutelage.data.formats.tables import as_written
from tutelage.recipe.sections import DataConfig

CALL = {"name": "tide", "arguments": {"port": "p0"}}
TOOL = {"name": "tide", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": TOOL}
WORDS = st.text(alphabet='a {}[]"\n\u00e9', max_size=4)
CALLED = {"tool_calls": [{"type": "function", "function": CALL}]}


def first(folder: Path, *rows: Any, **config: Any) -> tuple[Message, ...]:
    write(folder / "x.jsonl", *rows)
    return load(folder, **config).conversations[0].messages


def test_sharegpt_rows_of_several_exchanges(tmp_path: Path) -> None:
    turns = [("system", "s"), ("human", "q"), ("gpt", "a"), ("user", "q2"), ("chatgpt", "a2")]
    row = {"conversations": [{"from": role, "value": text, "weight": None} for role, text in turns]}
    messages = first(tmp_path, row)
    assert [(m.role, m.content) for m in messages] == [
        *[("system", "s"), ("user", "q"), ("assistant", "a")],
        *[("user", "q2"), ("assistant", "a2")],
    ]


@pytest.mark.parametrize("tools", [[WRAPPED], [TOOL], json.dumps([TOOL])], ids=["wrapped", "bare", "JSON text"])
@pytest.mark.parametrize(
    "calling",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"function": CALL, "type": "function"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {**CALL, "arguments": '{"port": "p0"}'}}]},
        {"role": "assistant", "content": "", "function_call": CALL},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
    ],
)
def test_calls_of_tools_in_every_form(tmp_path: Path, calling: Any, tools: Any) -> None:
    answer = {"from": "observation", "value": "3 m"} if "from" in calling else {"role": "function", "content": "3 m"}
    messages = first(tmp_path, {"tools": tools, "messages": [user("q"), calling, answer, assistant("a")]})
    assert messages[0].tools == (WRAPPED,)
    assert (messages[1].role, messages[1].content, dict(messages[1].extra)) == ("assistant", "", CALLED)
    assert (messages[2].role, messages[2].content) == ("tool", "3 m")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([user("q"), {**assistant(""), "tool_calls": "no"}], "turn 2: `tool_calls` is not a list but a text"),
        ([user("q"), {**assistant(""), "tool_calls": [{"id": 1}]}], "turn 2: a tool call is not an object with a"),
        ([user("q"), {**assistant(""), "tool_calls": [{"name": "f", "arguments": "x"}]}], "turn 2: the arguments of"),
        ([user("q"), assistant("a"), {"role": "tool", "content": "x"}, assistant("b")], "turn 3 has the role `tool`,"),
        ([user("q"), {**assistant("a"), "weight": 0.5}], "turn 2: `weight` is 0.5; only 0 and 1"),
        ([user("q"), {**assistant("a"), "train": "no"}], "turn 2: `train` is 'no'; only 0 and 1"),
        ([user("q"), {**assistant("a"), "weight": 0}], "no assistant turn is trained"),
        ([user("q"), {"from": "function_call", "value": "f(x)"}], "turn 2 (function_call) is not the JSON of a call"),
    ],
)  # fmt: skip
def test_bad_calls_and_flags(tmp_path: Path, turns: Any, reason: str) -> None:
    write(tmp_path / "x.jsonl", row(1), {"messages": turns})
    (bad,) = load(tmp_path, max_bad_rows=0.5).bad_rows
    assert bad.source == "x.jsonl:2"
    assert bad.reason.startswith(reason)


def test_parts_of_text_are_joined_as_templates_join_them(tmp_path: Path) -> None:
    from jinja2 import Template

    parts = [{"type": "text", "text": " q "}, {"type": "text", "text": "r\n", "image_url": None}, {"text": "s"}]
    template = "{% for part in content %}{% if 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    wanted = (
        Message("user", Template(template, keep_trailing_newline=True).render(content=parts)),
        Message("assistant", "ab"),
    )
    reply = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert wanted[0].content == " q r\ns"
    assert first(tmp_path, {"messages": [user(parts), assistant(reply)]}) == wanted
    assert first(tmp_path, {"prompt": [user(parts)], "completion": [assistant(reply)]}) == wanted
    assert (
        first(tmp_path, {"conversations": [{"from": "human", "value": parts}, {"from": "gpt", "value": reply}]})
        == wanted
    )


def test_messages_as_text_and_in_other_columns(tmp_path: Path) -> None:
    turns = [user("q"), assistant("a")]
    expected = (Message("user", "q"), Message("assistant", "a"))
    assert first(tmp_path, {"messages": json.dumps(turns)}) == expected
    assert first(tmp_path, {"chosen": turns, "rejected": turns}, messages="chosen") == expected
    assert first(tmp_path, {"data": {"turns": turns}}, messages="data.turns") == expected
    assert first(tmp_path, {"prompt": "q", "completion": "a", "conversation": "c7"}) == expected
    with pytest.raises(TutelageError, match=r"`data\.turns` is a list of turns; .* `messages: data\.turns`$"):
        first(tmp_path, {"data": {"turns": turns}})
    with pytest.raises(TutelageError, match=r"`chosen` is a list of turns; .* `messages: chosen`$"):
        first(tmp_path, {"id": 3, "chosen": turns})
    with pytest.raises(ValueError, match="messages: names the turns"):
        DataConfig(path="x", messages="a", prompt="{b}")


def test_instruction_rows_are_told_what_to_write_and_that_works(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": f"i{n}", "input": i, "output": f"o{n}"} for n, i in enumerate(("", "x", None))
    ]
    rows += [{"instruction": "i3", "output": "o3"}, {"instruction": "i4", "input": float("nan"), "output": "o4"}]
    write(tmp_path / "x.jsonl", *[json.dumps(row) for row in rows])
    with pytest.raises(TutelageError) as caught:
        load(tmp_path)
    told = str(caught.value)
    assert r'`prompt: "{instruction}{?\n\n{input}?}"` and `completion: "{output}"`' in told
    data = load(tmp_path, prompt="{instruction}{?\n\n{input}?}", completion="{output}")
    assert [c.messages[0].content for c in data.conversations] == ["i0", "i1\n\nx", "i2", "i3", "i4"]
    assert replies(data) == [f"o{n}" for n in range(5)]
    with pytest.raises(TutelageError, match=r"^data\.gold: no row has the column `inptu`"):
        load(tmp_path, prompt="{instruction}{?{inptu}?}", completion="{output}")


def test_optional_system_turns_and_references(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", row(1, s="be", b="B"), row(2, s="", b=None))
    one, two = load(tmp_path, system="{?{s}?}", references=["a", "{?{b}?}"]).conversations
    assert (one.messages[0], one.references) == (Message("system", "be"), ("a", "B"))
    assert (two.messages[0], two.references) == (Message("user", "q2"), ("a",))


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), WORDS | st.none() | st.just(float("nan"))))
def test_an_optional_piece_is_whole_or_absent(row: dict[str, Any]) -> None:
    filled = fill_template("x{? [{a}|{b}]?}{?({c})?}", row)
    texts = {k: v if isinstance(v, str) and v.strip() else None for k, v in row.items()}
    both = f" [{row['a']}|{row['b']}]" if texts.get("a") and texts.get("b") else ""
    assert filled == "x" + both + (f"({row['c']})" if texts.get("c") else "")


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (3, "3"), (3.0, "3.0"), (0.5, "0.5"), (" a ", " a ")]
)
def test_values_are_written_as_json_writes_them(value: Any, text: str) -> None:
    assert fill_template("{a}", {"a": value}) == text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf"), [1], {"x": 1}])
def test_values_without_text_are_no_text(value: Any) -> None:
    with pytest.raises(BadRowError, match=r"^column `a` is .*not a text or a number"):
        fill_template("{a}", {"a": value})


def test_tables_give_values_as_they_were_written(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    turns = [user("q"), {**assistant("a"), "tool_calls": [{"function": {"name": "f", "arguments": {"n": 1}}}]}]
    more = [user("q"), {**assistant("a"), "tool_calls": [{"function": {"name": "f", "arguments": {"m": "x"}}}]}]
    table = pa.Table.from_pylist(
        [{"n": 1.0, "b": True, "id": 7.0, "messages": turns}, {"n": None, "b": False, "id": 8.0, "messages": more}]
    )
    parquet.write_table(table, tmp_path / "x.parquet")
    one, two = load(tmp_path, "x.parquet", references=["{b}{? {n}?}"]).conversations
    assert (one.references, two.references, one.id) == (("true 1",), ("false",), "7")
    # A table gives every call the arguments of all calls; the null ones are not the call's.
    assert one.messages[1].extra["tool_calls"][0]["function"]["arguments"] == {"n": 1}
    assert two.messages[1].extra["tool_calls"][0]["function"]["arguments"] == {"m": "x"}
    assert as_written({"tools": [{"a": None, "b": [{"c": None}]}], "d": None}) == {"tools": [{"b": [{}]}], "d": None}


# --- files and folders -----------------------------------------------------------------------------------------------


def test_tables_of_text_are_read_as_written(tmp_path: Path) -> None:
    rows = [["007", 'a "quoted"\nline', "x"], ["1.0", "true", ""]]
    for name, delimiter in (("x.csv", ","), ("x.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["q", "a", "n"], *rows, ["short"]])
        data = load(tmp_path, name, prompt="{q}{?/{n}?}", completion="{a}", max_bad_rows=0.5)
        assert [c.messages[0].content for c in data.conversations] == ["007/x", "1.0"]
        assert replies(data) == ['a "quoted"\nline', "true"]
        assert [c.source for c in data.conversations] == [f"{name}:2", f"{name}:4"]  # lines, one row has two
        assert [(b.source, b.reason) for b in data.bad_rows] == [
            (f"{name}:5", "1 values, and the header has 3 columns")
        ]
    (tmp_path / "y.csv").write_bytes(b"q,a\ny,z\n\xff,x\n")
    with pytest.raises(TutelageError, match=r"^data\.gold\.path: .*y\.csv:3 is not UTF-8: save it as CSV in UTF-8"):
        load(tmp_path, "y.csv", prompt="{q}")


def test_folders(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [row(n) for n in range(6)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    assert replies(load(tmp_path, "saved")) == [f"a{n}" for n in range(6)]
    splits = {"train": Dataset.from_list(rows[:4]), "test": Dataset.from_list(rows[4:])}
    DatasetDict(list(splits.items())).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(TutelageError, match=r"`both` is a folder of folders \(test, train\); name one: both/test"):
        load(tmp_path, "both")
    assert replies(load(tmp_path, "both/train")) == ["a0", "a1", "a2", "a3"]
    for name, part in splits.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet"))
    with pytest.raises(
        TutelageError, match=r"has several splits \(test, train\); name the files of one: parquet/test\*"
    ):
        load(tmp_path, "parquet")
    write(tmp_path / "mixed" / "a.jsonl", row(1))
    write(tmp_path / "mixed" / "a.csv", "q,a")
    with pytest.raises(TutelageError, match=r"has files of several formats \(\.csv, \.jsonl\); .*: mixed/\*\.csv"):
        load(tmp_path, "mixed")
    write(tmp_path / "lines" / "b.jsonl", row(2))
    write(tmp_path / "lines" / "a.jsonl.gz", row(1))
    assert replies(load(tmp_path, "lines")) == ["a1", "a2"]


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_a_list_called_jsonl_is_read(tmp_path: Path, indent: int | None) -> None:
    rows = [row(n) for n in range(3)]
    (tmp_path / "x.jsonl").write_text(json.dumps(rows, indent=indent), encoding="utf-8-sig")
    data = load(tmp_path)
    assert [c.source for c in data.conversations] == ["x.jsonl:1", "x.jsonl:2", "x.jsonl:3"]
    (tmp_path / "y.jsonl").write_text("\n".join(json.dumps(row, indent=2) for row in rows))
    data = load(tmp_path, "y.jsonl")
    assert replies(data) == ["a0", "a1", "a2"]
    lines = (tmp_path / "y.jsonl").read_text().splitlines()
    assert [lines[int(c.source.split(":")[1]) - 1] for c in data.conversations] == ["{"] * 3


@given(rows=st.lists(st.dictionaries(WORDS, st.integers() | WORDS), min_size=1, max_size=5))
@pytest.mark.slow
def test_pretty_rows_are_the_rows_of_lines(tmp_path_factory: Any, rows: list[dict[str, Any]]) -> None:
    from tutelage.data.sources import read_rows

    folder = tmp_path_factory.mktemp("rows")
    for name, text in (("a", "\n".join(map(json.dumps, rows))), ("b", json.dumps(rows, indent=1))):
        (folder / f"{name}.jsonl").write_text(text)
    read = [[r for _, r in read_rows("k", DataConfig(path=f"{name}.jsonl"), folder, [])] for name in "ab"]
    assert read == [rows, rows]


def test_system_turns_stay_first(tmp_path: Path) -> None:
    """Tools are on the first turn, also if the recipe adds a system turn before it."""
    messages = first(tmp_path, {"tools": [TOOL], "messages": [user("q"), assistant("a")]}, system="s")
    assert [(m.role, m.tools) for m in messages] == [("system", (WRAPPED,)), ("user", ()), ("assistant", ())]
    assert first(tmp_path, {"messages": [system("s"), user("q"), assistant("a")]})[0].tools == ()


@pytest.mark.parametrize(("name", "text"), [("x.csv", b"a,b\n\xff,1\n"), ("x.json", b"["), ("x.csv", b'a,b\n"1,2\n')])
def test_files_below_the_working_folder_are_named_from_there(
    tmp_path: Path, name: str, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / name).write_bytes(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TutelageError) as caught:
        load_dataset("", DataConfig(path=f"here/{name}"), tmp_path)
    assert f"here/{name}:" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
