"""The options of `tutelage evaluate`. What it prints and writes: tests/evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.cli.evaluate import task_names
from tutelage.cli.main import main


def test_tasks_are_separated_by_commas_and_repeated() -> None:
    assert task_names([" bbh, paper ", "test,"]) == ["bbh", "paper", "test"]
    assert task_names([","]) == []


@pytest.mark.parametrize("command", ["evaluate", "serve-teacher"])
def test_more_gpus_than_there_are_are_refused_in_one_line(
    command: str, tiny_models: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    model = str(tiny_models / "teacher")
    words = [model] if command == "serve-teacher" else ["--model", model, "--tasks", "arc_challenge"]
    more = [] if command == "serve-teacher" else ["--data-dir", str(data_folder), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([command, *words, *more, "--tensor-parallel", "2"])
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tutelage: tensor_parallel: 2 needs 2 GPUs, and torch sees 1 here: lower it"
    )
