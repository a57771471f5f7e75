"""The examples run as they are, on tiny models in place of those that they name."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pages import do_not_draw

EXAMPLES = Path(__file__).parents[2] / "examples"
TEACHER, STUDENT = "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def place(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; no figure is drawn."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tiny_models / "cache"))
    monkeypatch.chdir(tmp_path)
    do_not_draw(monkeypatch)
    return tmp_path


def on_tiny(source: str, models: Path) -> str:
    assert STUDENT in source
    return source.replace(TEACHER, str(models / "teacher")).replace(STUDENT, str(models / "student"))


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; the value of its last expression, shown as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(place: Path, tiny_models: Path) -> None:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "__main__"}
    assert "batch_size=8" in sources[2]
    sources[2] = sources[2].replace("batch_size=8", "batch_size=8, max_steps=2")
    shown = [run_cell(on_tiny(one, tiny_models) if TEACHER in one else one, names) for one in sources]
    assert names["result"].verdict in shown[2]
    assert "<td>gkd</td>" in shown[2]
    assert "a − b" in shown[5]
    assert (place / "models" / "dates-gkd").is_dir()


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len({*ids}) == len(ids)
    assert [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")] == []
    assert len(json.dumps(notebook)) < 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"), [("own_objects", "Held-out perplexity:"), ("compare_models", "95 % interval")]
)
def test_an_example_runs(
    name: str, says: str, place: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = on_tiny((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"), tiny_models)
    exec(compile(source, name, "exec"), {"__name__": "__main__"})
    assert says in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    assert {file.name for file in EXAMPLES.iterdir()} == {"quickstart.ipynb", "own_objects.py", "compare_models.py"}
