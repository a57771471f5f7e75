"""File formats, bad rows counted and listed, ids, and nested subsets."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from chat_rows import assistant, load, replies, row, user, write

from tutelage.common.errors import TutelageError
from tutelage.data import sources
from tutelage.data.columns import BadRow, bad_lines, reasons
from tutelage.data.dataset import load_dataset, question_slices, repeated_note, repetitions
from tutelage.recipe.sections import DataConfig

# --- bad rows ------------------------------------------------------------------------------------------------------


def test_broken_text_encoding_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json.dumps(row(1)).encode() + b'\n{"prompt": "\xff"}\n')
    data = load(tmp_path, max_bad_rows=0.5)
    assert data.bad_rows[0].source == "x.jsonl:2"
    assert data.bad_rows[0].reason == "not UTF-8: save the file in UTF-8"


def test_too_many_bad_rows_are_an_error_with_their_reasons_and_the_threshold(tmp_path: Path) -> None:
    empty = [{"messages": []}] * 6
    write(tmp_path / "x.jsonl", *[row(n) for n in range(12)], "{", "[]", *empty)
    with pytest.raises(TutelageError) as caught:
        load(tmp_path, max_bad_rows=0.19)
    message = str(caught.value)
    assert message.startswith("data.gold: 8 of 20 rows are bad (40.0%, allowed 19.0%): x.jsonl:13: broken JSON")
    named = "x.jsonl:15, x.jsonl:16, x.jsonl:17 and 3 more: empty conversation"
    assert f"x.jsonl:14: not an object but a list; {named}; fix them" in message
    assert message.endswith("raise `data.gold.max_bad_rows` to 0.4")
    assert len(load(tmp_path, max_bad_rows=0.4).bad_rows) == 8


def test_rows_that_are_bad_for_many_reasons_are_counted() -> None:
    bad = [BadRow(f"x:{number}", f"reason {min(number, 5)}") for number in range(1, 8)]
    assert reasons(bad) == "x:1: reason 1; x:2: reason 2; x:3: reason 3; 4 more"
    assert bad_lines(bad[4:]) == ["bad rows: x:5, x:6, x:7: reason 5"]
    assert bad_lines(bad)[2:] == ["bad row: x:3: reason 3", "bad rows: 4 more"]
    assert reasons(bad[:4]) == "x:1: reason 1; x:2: reason 2; x:3: reason 3; x:4: reason 4"


def test_no_usable_row(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", "[]")
    with pytest.raises(
        TutelageError, match=r"no usable row among the 1 of `x\.jsonl`; the first, x\.jsonl:1: not an object"
    ):
        load(tmp_path, max_bad_rows=1.0)
    write(tmp_path / "y.jsonl")
    with pytest.raises(TutelageError, match=r"no usable row among the 0 of `y\.jsonl`$"):
        load(tmp_path, "y.jsonl")
    with pytest.raises(TutelageError, match=r"^data\.gold\.completion: .*`data\.gold\.prompt`"):
        load(tmp_path, completion="{a}")


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "json.gz", "object.json", "parquet"])
def test_kinds_of_files(tmp_path: Path, kind: str) -> None:
    rows = [row(n, id=f"r{n}") for n in range(3)]
    file = tmp_path / f"x.{kind}"
    if kind == "parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(str(file))
    elif kind.startswith("jsonl"):
        write(file, *rows)
    else:
        write(file, json.dumps({"canary": "c", "examples": rows} if kind == "object.json" else rows, indent=1))
    data = load(tmp_path, file.name)
    assert replies(data) == ["a0", "a1", "a2"]
    assert [c.id for c in data.conversations] == ["r0", "r1", "r2"]
    assert [c.source for c in data.conversations] == [f"x.{kind}:{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "arrow", "feather.arrow"])
def test_of_two_columns_of_one_name_none_is_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"x.{kind}"
    table = pa.Table.from_arrays([pa.array([text]) for text in "qab"], names=["prompt", "completion", "completion"])
    if kind == "parquet":
        parquet.write_table(table, file)
    elif kind.endswith("arrow"):
        new = pa.ipc.new_file if kind.startswith("feather") else pa.ipc.new_stream
        with new(str(file), table.schema) as writer:
            writer.write_table(table)
    else:
        mark = "," if kind == "csv" else "\t"
        file.write_text(f"{mark.join(table.column_names)}\n{mark.join('qab')}\n")
    with pytest.raises(TutelageError, match=r"x\.\S+ has two columns called `completion`: rename or remove one"):
        load(tmp_path, file.name)


def test_no_line_of_another_encoding_is_read(tmp_path: Path) -> None:
    text = "".join(f'{{"prompt": "é, {n}", "completion": "α, {n}"}}\n' for n in range(400))
    (tmp_path / "x.jsonl").write_bytes(text.encode("utf-16-le"))  # without the mark: 398 lines would be read, wrongly
    with pytest.raises(TutelageError, match=r"x\.jsonl seems to be in UTF-16: save it in UTF-8"):
        load(tmp_path, max_bad_rows=1.0)


def test_decimals_are_written_as_they_are(tmp_path: Path) -> None:
    prices = pa.array([Decimal("1.50"), Decimal("10.00")])
    parquet.write_table(pa.table({"price": prices}), tmp_path / "x.parquet")
    data = load(tmp_path, "x.parquet", prompt="{price}?", completion="{price}")
    assert replies(data) == ["1.50", "10.00"]


def test_globs_lists_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / "parts" / f"{name}.jsonl", {"prompt": "q", "completion": name})
    write(tmp_path / "more" / "a.jsonl", {"prompt": "q", "completion": "more"})
    assert replies(load(tmp_path, "parts/*.jsonl")) == ["a", "b", "c"]
    assert replies(load(tmp_path, "**/[ab].jsonl")) == ["more", "a", "b"]
    assert replies(load(Path("/"), str(tmp_path / "parts" / "*.jsonl"))) == ["a", "b", "c"]
    both = load(tmp_path, ["parts/b.jsonl", "more/a.jsonl", "./parts/a.jsonl"])
    assert replies(both) == ["b", "more", "a"]
    assert [c.id for c in both.conversations] == ["parts/b.jsonl:1", "more/a.jsonl:1", "parts/a.jsonl:1"]
    monkeypatch.setenv("PARTS", str(tmp_path / "parts"))
    assert replies(load(Path("/"), ["$PARTS/c.jsonl", "${PARTS}/a.jsonl"])) == ["c", "a"]
    monkeypatch.delenv("PARTS")
    with pytest.raises(
        TutelageError, match=r"^data\.gold\.path: the variable \$PARTS in `\$PARTS/c\.jsonl` is not set"
    ):
        load(tmp_path, "$PARTS/c.jsonl")


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", row(1))
    with pytest.raises(TutelageError, match=r"^data\.gold\.path: one file or hub data set is named twice"):
        load(tmp_path, ["x.jsonl", "*.jsonl"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.jsonl", r"^data\.gold\.path: no file `no\.jsonl` \(looked for /.*/no\.jsonl\)"),
        ("./no", r"^data\.gold\.path: no file `\./no`"),
        ("no/*.jsonl", r"^data\.gold\.path: no file matches `no/\*\.jsonl`"),
        ("folder", r"^data\.gold\.path: the folder `folder` has no data file \(\.json, .*\): name one"),
        ("x.txt", r"^data\.gold\.path: cannot read .*x\.txt; the formats are \.json, "),
        ("lines.json", r"broken JSON at .*lines\.json:2: Extra data; .* should be called \.jsonl"),
        ("broken.json", r"broken JSON at .*broken\.json:2: "),
        ("two.json", r"two\.json must be a list of rows or an object with one list in it, and it has 2"),
        ("cut.jsonl.gz", r"^data\.gold\.path: cannot read .*cut\.jsonl\.gz: Compressed file ended"),
        ("bad.parquet", r"^data\.gold\.path: cannot read .*bad\.parquet: ArrowInvalid: "),
        ([], r"^data\.gold\.path: the list is empty"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, path: str | list[str], message: str) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "x.txt", "a,b")
    write(tmp_path / "lines.json", row(1), row(2))
    write(tmp_path / "broken.json", "[", "}")
    write(tmp_path / "two.json", {"a": [], "b": []})
    whole = write(tmp_path / "whole.jsonl.gz", *[row(n) for n in range(50)]).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    write(tmp_path / "bad.parquet", "nothing")
    with pytest.raises(TutelageError, match=message) as caught:
        load(tmp_path, path)
    assert "\n" not in str(caught.value)


# --- the hub -------------------------------------------------------------------------------------------------------


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a?", "completion": "b"}\n')
    real = sources.hash_file

    def hashed(path: Path) -> str:
        found = real(path)
        file.write_text(file.read_text() * 2)
        return found

    monkeypatch.setattr(sources, "hash_file", hashed)
    with pytest.raises(TutelageError, match=r"data\.d\.path: .*a\.jsonl changed while it was read: wait"):
        load_dataset("d", DataConfig(path="a.jsonl"), tmp_path)


def test_hub_names_are_loaded_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the network is replaced: a Dataset is returned as by `datasets.load_dataset`."""
    import datasets

    asked: list[tuple[Any, ...]] = []

    def fetch(path: str, name: str | None, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list([row(n) for n in range(4)])

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    data = load(tmp_path, "someone/chats", split="test", revision="abc")
    assert [c.id for c in data.conversations] == [f"someone/chats:{n}" for n in range(4)]
    load(tmp_path, "someone/chats:main")
    assert asked == [("someone/chats", None, "test", "abc"), ("someone/chats", "main", "train", None)]


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    """conftest sets the hub client offline, so this is the client's own error."""
    with pytest.raises(
        TutelageError, match=r"^data\.gold\.path: `some/chats` is not a local file and cannot be loaded from the hub, w"
    ) as caught:
        load(tmp_path, "some/chats")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("or name local files")


# --- ids -----------------------------------------------------------------------------------------------------------


def test_ids(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", row(0, id="same", fname="f0", name="n0"), row(1, id="same", fname="f1", name=7))
    assert [c.id for c in load(tmp_path).conversations] == ["f0", "f1"]  # `id` is not unique, the next column is
    assert [c.id for c in load(tmp_path, id="name").conversations] == ["n0", "7"]
    with pytest.raises(TutelageError, match=r"^data\.gold\.id: 1 values of column `id` name more than one row: same; "):
        load(tmp_path, id="id")
    with pytest.raises(
        TutelageError, match=r"no column `nane`, did you mean `name`\? \(columns: messages, id, fname, name\)"
    ):
        load(tmp_path, id="nane")
    write(tmp_path / "y.jsonl", row(0, id="a"), row(1))  # a column that some rows lack gives no ids
    assert [c.id for c in load(tmp_path, "y.jsonl").conversations] == ["y.jsonl:1", "y.jsonl:2"]
    write(tmp_path / "z.jsonl", row(0, id=None), row(1, id=""))
    assert [c.id for c in load(tmp_path, "z.jsonl").conversations] == ["z.jsonl:1", "z.jsonl:2"]


# --- subsets -------------------------------------------------------------------------------------------------------


def test_subsets_are_nested_seeded_and_disjoint_under_skip(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", *[row(n) for n in range(200)])
    everything = replies(load(tmp_path))
    assert everything == [f"a{n}" for n in range(200)]  # file order without size and skip
    small, large = replies(load(tmp_path, size=20)), replies(load(tmp_path, size=100))
    assert large[:20] == small
    assert len(set(large)) == 100
    assert small != everything[:20]
    assert replies(load(tmp_path, size=20)) == small
    rest = replies(load(tmp_path, skip=100))
    assert set(rest).isdisjoint(large)
    assert set(rest) | set(large) == set(everything)
    assert replies(load(tmp_path, size=10, skip=15)) == large[15:25]
    other = replies(load(tmp_path, size=100, seed=1))
    assert 30 < len(set(other) & set(large)) < 70  # two independent halves of 200 have about 50 rows in common


def test_the_seeded_order_does_not_change_between_releases(tmp_path: Path) -> None:
    """Finished runs depend on it."""
    write(tmp_path / "x.jsonl", *[row(n) for n in range(10)])
    assert replies(load(tmp_path, size=10)) == [f"a{n}" for n in (3, 8, 5, 7, 1, 9, 2, 6, 0, 4)]


def test_fixing_a_bad_row_does_not_reshuffle_the_others(tmp_path: Path) -> None:
    rows: list[Any] = [row(n) for n in range(40)]
    write(tmp_path / "whole.jsonl", *rows)
    whole = replies(load(tmp_path, "whole.jsonl", size=40))
    write(tmp_path / "x.jsonl", *rows[:5], "broken", *rows[6:])
    data = load(tmp_path, size=39, max_bad_rows=0.1)
    assert replies(data) == [reply for reply in whole if reply != "a5"]
    with pytest.raises(
        TutelageError, match=r"^data\.gold\.size: 40 after `skip: 0` is more than there is: 39 usable rows"
    ):
        load(tmp_path, size=40, max_bad_rows=0.1)
    with pytest.raises(TutelageError, match=r"size: 10 after `skip: 30` .* 39 usable"):
        load(tmp_path, size=10, skip=30, max_bad_rows=0.1)
    with pytest.raises(TutelageError, match=r"size: the rest after `skip: 39` .* 39 usable"):
        load(tmp_path, skip=39, max_bad_rows=0.1)


def test_rows_keep_their_section_by_question_when_others_go_come_or_are_mended(tmp_path: Path) -> None:
    rows = [row(n) for n in range(300)]

    def sections(*rows: Any, **keys: Any) -> list[set[str]]:
        write(tmp_path / "x.jsonl", *rows)
        parts: list[dict[str, int]] = [{"size": 60}, {"skip": 60, "size": 30}, {"skip": 90}]
        return [set(replies(load(tmp_path, **part, **keys))) for part in parts]

    fewer = [one for n, one in enumerate(rows) if n not in (3, 88, 120, 201)]
    test, dev, train = sections(*rows, order="question")
    assert (len(test), len(dev), len(train), len(test | dev | train)) == (60, 30, 210, 300)
    after = sections(*fewer, order="question")[0]
    assert (len(after & test), len(after & train)) == (57, 0)
    by_position = sections(*rows)
    after = sections(*fewer)[0]
    assert (len(after & by_position[0]), len(after & by_position[2])) == (9, 47)
    after = sections(*rows, *(row(n) for n in range(300, 330)), order="question")[0]
    assert not after & train
    mended = [{"messages": [user(f"q{n}"), assistant(f"b{n}")]} for n in range(300)]
    assert sections(*mended, order="question")[0] == {f"b{reply[1:]}" for reply in test}


def test_rows_that_ask_the_same_are_never_parted(tmp_path: Path) -> None:
    rows = [{"messages": [user(f"q{n // 3}"), assistant(f"a{n}")]} for n in range(60)]
    write(tmp_path / "x.jsonl", *rows)
    parts: list[dict[str, int]] = [{"size": 10}, {"skip": 10, "size": 4}, {"skip": 14}]
    asked = [{int(reply[1:]) // 3 for reply in replies(load(tmp_path, order="question", **part))} for part in parts]
    assert [len(part) for part in asked] == [4, 1, 15]
    assert len(set.union(*asked)) == 20
    conversations = load(tmp_path).conversations
    assert question_slices(conversations, [10, 4]) == [12, 3, 45]
    assert question_slices(conversations, [10, 1]) is None  # one row between two that ask the same: none is left for it
    with pytest.raises(TutelageError, match=r"^data\.gold\.order: no row is left for this section.* use `position`"):
        load(tmp_path, order="question", skip=10, size=1)


def test_a_row_that_repeats_an_earlier_one_is_left_out_on_demand_and_told(tmp_path: Path) -> None:
    """Whatever slice is taken, and without shuffling the others; a row that answers otherwise is no repetition."""
    pairs = [(f"q{n}", f"a{n}") for n in range(12)]
    rows = [{"prompt": q, "completion": a} for q, a in [*pairs, pairs[3], ("q3", "other"), pairs[3], pairs[5]]]
    other = {**rows[0], "references": ["r"]}
    write(tmp_path / "x.jsonl", *rows, other, {**rows[1], "note": "of a column that nothing reads"})
    whole, found = load(tmp_path), load(tmp_path, distinct=True)
    assert found.repeated == (
        "x.jsonl:13 (it repeats x.jsonl:4)",
        "x.jsonl:15 (it repeats x.jsonl:4)",
        "x.jsonl:16 (it repeats x.jsonl:6)",
        "x.jsonl:18 (it repeats x.jsonl:2)",
    )
    assert (len(found.conversations), found.total, found.bad_rows) == (14, 18, ())
    assert repeated_note(found)[0].startswith("4 of 18 rows are exact repetitions and left out: x.jsonl:13 (it ")
    assert repetitions(whole.conversations)[0].startswith("4 rows are exact repetitions")
    assert not any("repetition" in line for line in repetitions(found.conversations))
    slices = [load(tmp_path, distinct=True, **keys).conversations for keys in ({"size": 5}, {"skip": 5})]
    gone = {one.partition(" ")[0] for one in found.repeated}
    drawn = [row.source for row in load(tmp_path, size=18).conversations if row.source not in gone]
    assert [row.source for part in slices for row in part] == drawn
    assert whole.fingerprint == load(tmp_path, distinct=False).fingerprint != found.fingerprint


# --- fingerprint -----------------------------------------------------------------------------------------------------


def test_rows_that_repeat_or_contradict_others_are_named(tmp_path: Path) -> None:
    rows = [("a", "1"), ("b", "2"), ("a", "1"), ("a ", "3"), ("c", "4"), *[("c", f"{n}") for n in range(5, 9)]]
    lines = [json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows]
    (tmp_path / "x.jsonl").write_text("".join(lines))
    found = repetitions(load_dataset("train", DataConfig(path="x.jsonl"), tmp_path).conversations)
    assert found == [
        "1 row is an exact repetition and counts twice: remove x.jsonl:3 (it repeats x.jsonl:1), or set "
        "`distinct: true`",
        "5 rows answer earlier rows' questions otherwise: keep the right answer: x.jsonl:4 (it asks what x.jsonl:1 "
        "asks), x.jsonl:6 (it asks what x.jsonl:5 asks), x.jsonl:7 (it asks what x.jsonl:5 asks) and 2 more",
    ]
    (tmp_path / "y.txt").write_text("one\n\ntwo\n\nthree\n")


def test_fingerprint_follows_content_and_config_not_the_threshold(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", *[row(n) for n in range(4)])
    base = load(tmp_path).fingerprint
    assert load(tmp_path, max_bad_rows=0.5).fingerprint == base
    assert (
        load(tmp_path, order="position").fingerprint == base == "947d49979777"
    )  # as of runs from before `order` existed
    assert load(tmp_path, order="question").fingerprint != base
    assert load(tmp_path, size=2).fingerprint != base
    assert load(tmp_path, size=2, seed=1).fingerprint != load(tmp_path, size=2).fingerprint
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "x.jsonl", *[row(n) for n in range(4)])
    assert load(elsewhere).fingerprint == base  # only the bytes matter, not the folder
    write(file, *[row(n) for n in (0, 1, 2, 4)])
    assert load(tmp_path).fingerprint != base


# --- real data -------------------------------------------------------------------------------------------------------


def test_dialogsum_as_the_paper_uses_it(data_folder: Path) -> None:
    config = DataConfig(
        path="dialogsum/dialogsum.test.jsonl",
        prompt="{dialogue}\n\nSummary:",
        completion="{summary1}",
        references=["{summary1}", "{summary2}", "{summary3}"],
    )
    data = load_dataset("test", config, data_folder)
    assert (data.total, len(data.conversations), data.bad_rows) == (500, 500, ())
    assert data.conversations[0].id == "test_0"
    assert all(len(set(c.targets)) >= 2 for c in data.conversations[:20])


def test_chat_files_load_without_a_bad_row(data_folder: Path) -> None:
    data = load_dataset(
        "gold", DataConfig(path=["instruct/lima.jsonl.gz", "instruct/oasst_val_en.jsonl.gz"]), data_folder
    )
    assert (data.total, data.bad_rows) == (1027 + 418, ())
    assert data.conversations[1027].source == "oasst_val_en.jsonl.gz:1"
    prompts = load_dataset("p", DataConfig(path="instruct/instructwild_prompts.jsonl.gz"), data_folder, False)
    assert (len(prompts.conversations), prompts.conversations[0].response) == (865, None)
