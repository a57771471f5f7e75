"""What the command says last."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import make_run

from tutelage.cli.outcome import show
from tutelage.runs.recipe_results import TrainedModel
from tutelage.runs.row_notes import SectionRows


def test_the_last_lines_name_the_model_to_use_and_what_to_do_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = make_run(tmp_path / "x", count=10)
    run: Any = SimpleNamespace(folder=Path("runs/sft-s0-1"), done=True, kind="sft")
    note = (
        "1 row answers an earlier row's question otherwise: keep the right answer: a.csv:9 (it asks what a.csv:4 asks)"
    )
    results = dataclasses.replace(
        results,
        models=(TrainedModel("sft", "SFT", None, run, {}),),
        sections=(SectionRows("test", "a.csv", "scored on", 10, (note,)),),
    )
    (tmp_path / "table.md").write_text("| a |\n")
    show(tmp_path / "report.html", results, [Path("models/mini-sft")])
    lines = capsys.readouterr().out.splitlines()
    assert f"note: data.test: {note}" in lines
    place = lines.index("Models: models/mini-sft")
    assert lines[place - 1] == f"Report: {tmp_path / 'report.html'}"
    assert lines[place + 2].startswith("Use `runs/sft-s0-1`. SFT is the simplest of 4 trained students")
    assert lines[place + 3].startswith("To show a difference that may be there: more test rows (")
    assert lines[place + 4 :] == [
        "→ tutelage chat runs/sft-s0-1    talk to it",
        "→ tutelage evaluate --model runs/sft-s0-1 --tasks ifeval    measure it on a benchmark of the hub",
        "→ tutelage export runs/sft-s0-1 --gguf    take it to llama.cpp and others",
    ]
    show(tmp_path / "report.html", dataclasses.replace(results, tasks={}), [Path("models/mini-sft")])
    assert capsys.readouterr().out.endswith("\nTalk to it: tutelage chat models/mini-sft\n")
