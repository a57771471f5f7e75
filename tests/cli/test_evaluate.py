"""The options of `tutelage evaluate`. What it prints and writes: tests/evaluation."""

from __future__ import annotations

from tutelage.cli.evaluate import task_names


def test_tasks_are_separated_by_commas_and_repeated() -> None:
    assert task_names([" bbh, paper ", "test,"]) == ["bbh", "paper", "test"]
    assert task_names([","]) == []
