"""`tutelage init` in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.cli.main import main
from tutelage.recipe import load_recipe
from tutelage.runs.cost.cpu import Pace


@pytest.fixture
def here(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`tutelage init` in an empty folder with tiny models; returns the loaded recipe."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tiny_models / "cache"))
    monkeypatch.setattr("tutelage.start.estimate.measured_pace", lambda: Pace(1e11))  # whatever runs beside the tests
    monkeypatch.chdir(tmp_path)
    models = ["--teacher", str(tiny_models / "teacher"), "--student", str(tiny_models / "student")]

    def run(*arguments: str, out: str = "mine.yaml") -> Any:
        main(["init", *arguments, "--out", out, *models])
        return load_recipe(Path(out))

    return run
