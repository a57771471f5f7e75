"""Files by what they are for, and columns by what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tutelage.common.errors import TutelageError
from tutelage.start.files import find_form, form_of, likely_pair, sort_files, without_text


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


ODD = {
    "running numbers": [str(n) for n in range(1, 13)],
    "ids": ["a7", "c41", "b3", "d5", "k2", "x9", "e1", "f8", "g6", "h4", "i0", "j12"],
    "dates": [f"2026-0{n % 9 + 1}-11 10:3{n % 10}" for n in range(12)],
    "addresses": [f"https://example.org/{n * n % 7}" for n in range(12)],
    "the same in every row": ["open"] * 12,
}
TEXTS = {
    "frage": [f"How long does parcel {n * n % 11} take?" for n in range(12)],
    "antwort": [f"{n % 4} days" for n in range(12)],
}


@pytest.mark.parametrize("kind", ODD)
def test_columns_without_text_are_neither_question_nor_answer(kind: str) -> None:
    rows = [
        {"vorgang_id": odd, "frage": question, "antwort": answer}
        for odd, question, answer in zip(ODD[kind], *TEXTS.values(), strict=True)
    ]
    form = find_form(rows, "x.csv")
    assert form is not None
    assert (form.keys, form.sure) == ({"prompt": "{frage}", "completion": "{antwort}"}, False)
    assert without_text(rows, list(rows[0])) == {"vorgang_id": kind}
    two = [{name: row[name] for name in ("vorgang_id", "antwort")} for row in rows]
    assert find_form(two, "x.csv") is None  # only a person can tell
    named = [{"source": row["vorgang_id"], "text": row["frage"], "summary": row["antwort"]} for row in rows]
    form = find_form(named, "x.csv")
    assert form is not None
    assert form.keys["completion"] == "{summary}"
    if kind in ("running numbers", "addresses"):  # whatever they are called
        assert form.keys["prompt"] == "{text}"


def test_a_number_is_the_answer_to_a_text_and_not_the_other_way_round() -> None:
    rows = [{"punkte": str(n * n % 7 + 0.5), "satz": f"sentence {n} of them"} for n in (3, 1, 4, 1, 5)]
    form = find_form(rows, "x.csv")
    assert form is not None
    assert form.keys == {"prompt": "{satz}", "completion": "{punkte}"}


def test_words_of_a_language_called_id_are_text() -> None:
    rows = [{"en": en, "id": word} for en, word in (("water", "air"), ("fire", "api"), ("sun", "matahari"))]
    form = find_form(rows, "x.csv")
    assert form is not None
    assert form.keys == {"prompt": "{en}", "completion": "{id}"}


ANSWERS = ("is on its way", "has gone home", "waits at the door")
DESK: dict[str, list[str]] = {
    "channel": ["mail", "phone", "chat"] * 4,
    "ticket": [f"T-{n}" for n in range(12)],
    "words": [f"Where is parcel {n * n} that I sent on Monday with all my {n} books?" for n in range(12)],
    "note": [f"Parcel {n * n} {ANSWERS[n % 3]}." for n in range(12)],
}


def desk(**names: str) -> list[dict[str, str]]:
    """Rows of the desk, columns renamed."""
    columns = {names.get(name, name): values for name, values in DESK.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("names", "likely"),
    [
        ({"note": "zusatz"}, ("words", "zusatz")),  # the longest texts, in the file's order
        ({"note": "answer"}, ("words", "answer")),
        ({"note": "zusatz", "channel": "category"}, ("words", "category")),  # a category is an answer at most
        ({"note": "zusatz", "channel": "source"}, ("words", "zusatz")),
    ],
)
def test_the_columns_that_are_proposed_have_text_that_differs(names: dict[str, str], likely: tuple[str, str]) -> None:
    rows = desk(**names)
    assert likely_pair(rows, list(rows[0])) == likely


def test_a_category_is_no_question_whatever_it_is_called() -> None:
    form = find_form(desk(channel="source", note="answer"), "x.csv")
    assert form is not None
    assert (form.keys, form.sure) == ({"prompt": "{words}", "completion": "{answer}"}, False)
    assert find_form(desk(channel="source", note="zusatz"), "x.csv") is None  # either may be the answer
    form = find_form([{key: row[key] for key in ("channel", "words")} for row in desk()], "x.csv")
    assert form is not None
    assert form.keys == {"prompt": "{words}", "completion": "{channel}"}


def test_one_column_is_not_both() -> None:
    with pytest.raises(TutelageError, match="`a` cannot be the question and the answer"):
        form_of("a", "a", ["a", "b"])


def test_a_misspelt_file_is_answered_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    for name in ("rows/train.csv", "rows/notes.jsonl", "rows/readme.md"):
        Path(name).touch()
    with pytest.raises(TutelageError, match=r"no file `rows/trian.csv` here: did you mean `rows/train.csv`\?"):
        sort_files(["rows/trian.csv"])
    with pytest.raises(TutelageError, match=r"`rows/x y z` here: there are rows/notes.jsonl, rows/train.csv$"):
        sort_files(["rows/x y z"])
