"""Files by what they are for, and columns by what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.start.files import find_form, form_of, sort_files


def test_names_say_what_files_are_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("faq.csv", "faq-test.csv", "faq.valid.csv", "contest.csv", "latest.jsonl"):
        Path(name).touch()
    found = sort_files(["faq.csv", "faq-test.csv", "faq.valid.csv", "contest.csv", "latest.jsonl", "owner/set:main"])
    assert found["train"] == ["faq.csv", "contest.csv", "latest.jsonl", "owner/set:main"]
    assert (found["dev"], found["test"]) == (["faq.valid.csv"], ["faq-test.csv"])
    assert sort_files(["faq-test.csv"])["train"] == ["faq-test.csv"]  # the only file is to be trained on
    with pytest.raises(TutelageError, match="no file to train on among faq-test"):
        sort_files(["faq-test.csv", "faq.valid.csv"])


@pytest.mark.parametrize(
    ("columns", "prompt", "completion", "sure"),
    [
        (["id", "Question", "Answer"], "{Question}", "{Answer}", True),
        (["context", "question", "answer"], "{?{context}\n\n?}{question}", "{answer}", True),
        (["instruction", "input", "output"], "{instruction}{?\n\n{input}?}", "{output}", True),
        (["text", "label"], "{text}", "{label}", True),
        (["de", "en"], "{de}", "{en}", False),
        (["answer", "zzz"], "{zzz}", "{answer}", False),
        (["prompt", "answer"], "{prompt}", "{answer}", True),
    ],
)
def test_columns_are_found_by_their_names(columns: list[str], prompt: str, completion: str, sure: bool) -> None:
    row: dict[str, Any] = dict.fromkeys(columns, "x")
    form = find_form([row, row], "x.csv")
    assert form is not None
    assert (form.keys, form.sure) == ({"prompt": prompt, "completion": completion}, sure)


def test_a_system_column_and_templates_are_taken() -> None:
    assert form_of("query", "reply", ["system", "query", "reply"]).keys["system"] == "{?{system}?}"
    assert form_of("Q: {q}", "{a.text}", ["q", "a"]).keys == {"prompt": "Q: {q}", "completion": "{a.text}"}


def test_rows_of_a_known_form_need_no_keys() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for row in ({"messages": turns}, {"conversation": turns}, {"prompt": "q", "completion": "a"}):
        form = find_form([row], "x.jsonl")
        assert form is not None
        assert form.keys == {}
    assert find_form([{"a": "1", "b": "2", "c": "3"}], "x.csv") is None


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (("What is the capital of France?", "Paris"), [("What is the capital of Peru?", "Lima")] * 3),
        (("Is it open now?", "Yes"), [("Who are you?", "Me")] * 3),
        (("two oak chairs for Klara", "2 x oak chairs"), [("five pens for Mina, soon", "5 x pens")] * 3),
        (("great film", "good"), [("dull plot", "bad"), ("nice music", "good")]),
    ],
)
def test_a_first_row_in_the_place_of_the_names_is_refused(
    first: tuple[str, str], others: list[tuple[str, str]]
) -> None:
    rows: list[dict[str, Any]] = [dict(zip(first, row, strict=True)) for row in others]
    with pytest.raises(TutelageError, match=r"x.csv: its first line looks like a row .*: put a first line with the n"):
        find_form(rows, "x.csv")


@pytest.mark.parametrize(
    "names", [("de", "en"), ("Order text", "Our code"), ("question asked by the customer", "answer")]
)
def test_names_of_columns_are_names(names: tuple[str, str]) -> None:
    assert find_form([dict(zip(names, ("some longer text of a row, and more of it", "x"), strict=True))], "x.csv")
