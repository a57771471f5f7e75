"""`tutelage init`: what it says of rows that repeat or are in two files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from question_tables import PAIRS, Typed, table

from tutelage.data.dataset import load_dataset
from tutelage.runs.recipe_results import recipe_results


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("models", "a folder of models"),
        ("models/faq-gkd", "a model"),
        ("models/faq-sft", "a model"),
        ("runs", "a folder of runs"),
        ("runs/sft-s0-0123456789ab", "a run"),
    ],
)
def test_models_and_runs_are_no_data(
    folder: str, kind: str, here: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, files in {
        "models/faq-gkd": ("config.json", "model.safetensors", "tokenizer.json"),
        "models/faq-sft": ("where.txt", "README.md"),
        "runs/sft-s0-0123456789ab": ("config.json", "environment.json", "result.json"),
    }.items():
        (tmp_path / name).mkdir(parents=True)
        for file in files:
            (tmp_path / name / file).write_text("{}")
    with pytest.raises(SystemExit):
        here(folder)
    assert capsys.readouterr().err == f"tutelage: `{folder}` is {kind}, and no data: name a file with your rows\n"


@pytest.mark.slow
def test_a_test_file_of_one_row_is_warned_of(
    here: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table(tmp_path / "train.csv")
    table(tmp_path / "test.csv", rows=PAIRS[3:4])
    here("train.csv", "test.csv")
    said = capsys.readouterr().out
    assert "test: test.csv: 1 row; " in said
    assert "note: 1 test row can hardly tell models apart: give at least 30, better 120\n" in said
    assert "note: the only question of task `test` is also in data.train" in said
    table(tmp_path / "test.csv", rows=PAIRS[3:33])
    here("train.csv", "test.csv", "--force")
    assert "tell models apart" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "typed", "left_out"),
    [
        ((), None, True),
        (("--distinct",), "", True),
        ((), "", True),
        ((), "n\n", False),
        (("--no-distinct",), "", False),
    ],
)
def test_rows_that_repeat_are_left_out_unless_somebody_keeps_them(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], typed: str | None, left_out: bool,
) -> None:  # fmt: skip
    table(tmp_path / "desk.csv", rows=[*PAIRS[:40], *PAIRS[7:12]])
    if typed is not None:
        monkeypatch.setattr("sys.stdin", Typed(f"{typed}\n\n\n"))
    config = here("desk.csv", *arguments)
    said = capsys.readouterr().out
    question = "train: 5 rows repeat earlier ones exactly: desk.csv:42 (it repeats desk.csv:9), "
    assert (question in said) == (typed is not None and not arguments)
    rows = {name: load_dataset(name, one, tmp_path) for name, one in config.data.items()}
    assert sum(len(one.conversations) for one in rows.values()) == (40 if left_out else 45)
    assert [one.distinct for one in config.data.values()] == [left_out] * 3
    line = "  5 rows are exact repetitions and left out (`distinct: true`): desk.csv:42 (it repeats desk.csv:9), "
    assert (line in said) == left_out
    assert ("counts twice: remove desk.csv" in said or "count twice: remove desk.csv" in said) == (not left_out)
    assert "on which models are trained: its loss" not in said  # equal questions are in one slice


@pytest.mark.slow
def test_test_rows_that_are_training_rows_are_named(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "train.csv")
    table(tmp_path / "test.csv", rows=[PAIRS[3], ("Who waters the plants at noon?", "Ada.")])
    table(tmp_path / "dev.csv", rows=PAIRS[:2])
    here("train.csv", "dev.csv", "test.csv")
    said = capsys.readouterr().out
    assert (
        "1 of the 2 questions of task `test` is also in data.train, on which models are trained: scores on it look "
        "better than they are (test.csv:2 repeats train.csv:5)"
    ) in said
    assert "2 of the 2 questions of data.dev are also in data.train, on which models are trained: its loss look" in said
    assert "nearly" not in said


@pytest.mark.slow
def test_init_says_of_repeated_and_near_rows_what_a_run_and_its_report_say(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    things = ("bicycle", "letter", "lamp post", "garden chair", "kettle", "umbrella", "violin", "wardrobe", "ladder")
    rows = [
        (
            f"Could you please tell me in which room of the house I left the {thing} yesterday evening?",
            f"By the {thing} rack.",
        )
        for thing in things
    ]
    table(tmp_path / "desk.csv", rows=[*PAIRS[:24], *rows, *rows[:4], *PAIRS[5:16]])
    config = here("desk.csv", "--no-distinct")
    said = capsys.readouterr().out.splitlines()
    results = recipe_results(config, tmp_path, tmp_path / "runs")
    notes = [f"note: {note}" for note in (*results.row_notes, *results.notices)]
    assert [line for line in said if line in notes] == notes
    for kind in ("exact repetition", " nearly ", "are trained: scores on", "are trained: its loss"):
        assert any(kind in note for note in notes)
    assert not any("repeats" in line for line in said if line not in notes)  # one count, not two
