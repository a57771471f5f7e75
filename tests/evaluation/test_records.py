from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.evaluation.records import (
    ExampleRecord,
    example_name,
    read_records,
    read_result,
    score_array,
    summarise,
    write_records,
    write_result,
)


def record(id: str, score: float | None, *, response: str = "r", finished: bool = True, tokens: int = 3):
    return ExampleRecord(id, "p", response, ("x", "y"), {"rouge_l": score}, "r", "why", finished, tokens)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = [
        record("a", 0.5, response="two\nlines\u2028and a third, é, \u0000 and a lone \ud800"),
        record("b", None),
    ]
    path = write_records(tmp_path / "new" / "folder", records)
    assert path.name == "examples.jsonl"
    assert path.read_bytes().count(b"\n") == 2
    assert read_records(tmp_path / "new" / "folder") == records
    assert [file.name for file in path.parent.iterdir()] == ["examples.jsonl"]


def test_broken_records_are_named(tmp_path: Path) -> None:
    write_records(tmp_path, [record("a", 1.0)])
    with (tmp_path / "examples.jsonl").open("a") as handle:
        handle.write('{"id": "b"}\n')
    with pytest.raises(TutelageError, match=r"examples\.jsonl:2 is not a record"):
        read_records(tmp_path)
    with pytest.raises(TutelageError, match="no evaluation can be read"):
        read_records(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"rouge_l": 1.0}', b"3"),
        (b'{"rouge_l": 1.0}', b'{"rouge_l": "x"}'),
        (b'"parts": []', b'"parts": [{"name": "a", "scores": 3}]'),
        (b'"parts": []', b'"parts": 3'),
        (b'"why"', b'"\xff"'),
    ],
)
def test_records_of_wrong_values_are_named(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write_records(tmp_path, [record("a", 0.5), record("b", 1.0)])
    first, second = path.read_bytes().splitlines(keepends=True)
    assert old in second
    path.write_bytes(first + second.replace(old, new))
    with pytest.raises(TutelageError, match=r"examples\.jsonl:2 is not a record") as raised:
        read_records(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_results_that_are_none_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(TutelageError, match=r"no result can be read: .*result\.json"):
        read_result(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "a.txt", "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(TutelageError, match="cannot be written: disk full; free some space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_summary_numbers(tmp_path: Path) -> None:
    records = [
        record("a", 0.2, tokens=2),
        record("b", 0.4, tokens=4, finished=False),
        record("c", None, tokens=9),
    ]
    result = summarise(records, ["rouge_l"], "rouge_l", task="test", model="gkd", seed=1)
    assert result["metrics"]["rouge_l"]["value"] == pytest.approx(30)
    assert result["metrics"]["rouge_l"]["stderr"] == pytest.approx(100 * math.sqrt(0.02) / math.sqrt(2))
    del result["metrics"]
    assert result == {
        "task": "test",
        "model": "gkd",
        "seed": 1,
        "n": 3,
        "unscored": 1,
        "headline": "rouge_l",
        "cut": 1,
        "mean_tokens": 5.0,
    }


def test_undefined_numbers_are_null_in_json(tmp_path: Path) -> None:
    result = summarise([record("a", None)], ["rouge_l"], "rouge_l", task="t", model="m", seed=None)
    write_result(tmp_path, result)
    assert json.loads((tmp_path / "result.json").read_text())["metrics"] == {"rouge_l": {"value": None, "stderr": None}}
    assert read_result(tmp_path) == result


def test_an_absent_metric_is_an_error() -> None:
    with pytest.raises(TutelageError, match="example a has no score `exact_match`"):
        score_array([record("a", 1.0)], "exact_match")


@pytest.mark.parametrize(
    ("id", "data", "name"),
    [
        ("248", "test.jsonl", "id 248 of test.jsonl"),
        ("248", "", "id 248"),
        ("test.jsonl:17", "test.jsonl", "line 17 of test.jsonl"),
        ("a/test.csv.gz:2", "", "line 2 of a/test.csv.gz"),
        ("test.parquet:3", "", "row 3 of test.parquet"),
        ("openai/gsm8k:main:0", "", "row 0 of openai/gsm8k:main"),
        ("dialogue_3", "test.jsonl", "dialogue_3"),
    ],
)
def test_an_example_is_called_by_where_it_is(id: str, data: str, name: str) -> None:
    assert example_name(id, data) == name
