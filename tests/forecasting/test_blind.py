"""The blind recipes: forecast first, and the table that sets both side by side."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from recipes_fixture import ROWS, Workshop

from tutelage.common.errors import TutelageError
from tutelage.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
SAMPLING = {"max_new_tokens": 6}
STAGES = [
    {"name": "sft", "kind": "sft", "data": "train"},
    {"name": "again", "kind": "sft", "student": "sft", "data": "train"},
    {"name": "gkd", "kind": "distill", "student": "sft", "teacher": "teacher", "data": "train", "sampling": SAMPLING},
    {"name": "scores", "kind": "evaluate", "models": ["sft", "again", "gkd"], "tasks": ["test"]},
]


def script(**changes: Any) -> dict[str, Any]:
    found = runpy.run_path(str(ROOT / "scripts" / "forecast_blind.py"))
    found["main"].__globals__.update(changes)
    return found


def test_the_table_says_what_is_not_there(tmp_path: Path) -> None:
    table = script()["table"]
    assert table(tmp_path).count("not made yet") == 3
    made = {"gain": {"mean": 0.5, "low": -1.0, "high": 2.0}, "metric": "rouge_l", "answer": "cannot be told",
            "known": {"rows": 1000.0}, "prices": {"a": {"gpu_hours": 0.1}, "b": {"gpu_hours": 0.2}}}  # fmt: skip
    (tmp_path / "demo.json").write_text(json.dumps(made))
    assert (
        "| the demo | 1,000 | +0.5 (−1.0 to 2.0) ROUGE-L | cannot be told | not measured yet |  | 0.100; 0.200 |"
        in (table(tmp_path))
    )
    (tmp_path / "demo.outcome.json").write_text(json.dumps({"gain": 2.5, "gain_se": 0.4}))
    assert "| +2.5 ± 0.4 | no |" in table(tmp_path)


@pytest.mark.slow
def test_what_is_not_forecast_is_not_run(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the other way round: no forecast once there is an outcome."""
    monkeypatch.setenv("TUTELAGE_DATA", "")
    workshop.rows("train", [ROWS[i % 12] | {"id": f"m{i}"} for i in range(130)])
    file, page = workshop.write(stages=STAGES, training__max_steps=4), tmp_path / "page.md"
    page.write_text("<!-- blind -->\n<!-- end -->\n")
    found = script(OUT=tmp_path / "out", PAGE=page, NAMES={"one": "tiny"},
                   recipe_of=lambda name, work: (load_recipe(file), file.parent))  # fmt: skip
    with pytest.raises(TutelageError, match="no forecast of this recipe"):
        found["main"]("run", tmp_path, 1)
    found["main"]("forecast", tmp_path, 1)
    assert "| tiny | 130 |" in page.read_text()
    assert "not measured yet" in page.read_text()
    found["main"]("run", tmp_path, 1)
    assert "not measured yet" not in page.read_text()
    (tmp_path / "out" / "one.json").unlink()
    with pytest.raises(TutelageError, match="was run before it was forecast"):
        found["main"]("forecast", tmp_path, 1)
