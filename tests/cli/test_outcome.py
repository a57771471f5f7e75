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
from tutelage.runs.rows.notes import SectionRows


@pytest.mark.slow
def test_the_last_lines_name_the_model_to_use_and_what_to_do_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = make_run(tmp_path / "x", count=10)
    run: Any = SimpleNamespace(folder=Path("runs/gkd-s0-1"), done=True, kind="distill")
    note = (
        "1 row answers an earlier row's question otherwise: keep the right answer: a.csv:9 (it asks what a.csv:4 asks)"
    )
    bad, cut = "1 of 101 rows is bad and left out: a.csv:3: no reply", "1 row is cut at the length limit of training"
    results = dataclasses.replace(
        results,
        known_rows={"test": frozenset({"dialogue_0"})},
        models=(TrainedModel("gkd", "GKD (SFT-S)", None, run, {}),),
        sections=(
            SectionRows("train", "a.csv", "trained on", 90, (), (bad, cut)),
            SectionRows("test", "a.csv", "scored on", 10, (note,), (bad,)),
        ),
    )
    (tmp_path / "table.md").write_text("| a |\n")
    show(tmp_path / "report.html", results, [Path("models/mini-sft")])
    lines = capsys.readouterr().out.splitlines()
    assert f"note: data.test: {note}" in lines
    assert f"note: data.train and data.test: {bad}" in lines
    assert f"note: data.train: {cut}" in lines
    assert any(line.startswith("note: task `test`: 9 of the 10 questions are new, ") for line in lines)
    place = lines.index("Models: models/mini-sft")
    assert lines[place - 1] == f"Report: {tmp_path / 'report.html'}"
    assert lines[place + 2].startswith("Use `runs/gkd-s0-1`. GKD (SFT-S) scores highest of 4 students. But no differ")
    assert lines[place + 3].startswith("To tell GKD (SFT-S) from ")
    assert lines[place + 4 :] == [
        "→ tutelage chat runs/gkd-s0-1    talk to it",
        "→ tutelage evaluate --model runs/gkd-s0-1 --tasks ifeval    measure it on a benchmark (needs hub and lm-eval)",
        "→ tutelage export runs/gkd-s0-1 --gguf    take it to llama.cpp and others (needs llama.cpp)",
    ]
    show(tmp_path / "report.html", dataclasses.replace(results, tasks={}), [Path(f"models/m{n}") for n in range(9)])
    out = capsys.readouterr().out
    assert "\nModels: models/m0\n        models/m1\n        models/m2\n" in out  # a terminal breaks long lines alone
    assert out.endswith("\nTalk to the last one: tutelage chat models/m8\n")
    show(tmp_path / "report.html", dataclasses.replace(results, said=frozenset({"another note"})))
    said = capsys.readouterr().out
    assert note in said
    assert bad not in said  # the runs that the call did have told it
