"""What docs/python.md and the docstrings show of `import tutelage` is right: calls bind, examples run."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pages import do_not_draw
from recipes_fixture import ROWS, Workshop

import tutelage

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)


def calls(source: str) -> list[ast.Call]:
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [one for one in found if ast.unparse(one.func).startswith("tutelage.")]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_calls_of_the_page_bind(block: str) -> None:
    assert calls(block)
    for call in calls(block):
        signature = inspect.signature(getattr(tutelage, ast.unparse(call.func).removeprefix("tutelage.")))
        signature.bind(*call.args, **{str(one.arg): one for one in call.keywords})


def example(name: str) -> str:
    """The code of a docstring's example: `>>>` lines, or the text in backquotes after "Example:"."""
    text = inspect.getdoc(getattr(tutelage, name)) or ""
    lines = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", text, re.MULTILINE)
    return "\n".join(lines) if lines else re.findall(r"Example: `(.*?)`\.?$", text, re.MULTILINE)[0]


@pytest.mark.long
def test_examples_of_docstrings_run(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(workshop.folder)
    do_not_draw(monkeypatch)
    workshop.write(name="mine").rename("mine.yaml")
    for copy in ("A", "B"):
        shutil.copytree(workshop.models / "student", copy)
    names: dict[str, Any] = {"tutelage": tutelage, "rows": ROWS, "AutoTokenizer": AutoTokenizer}
    names["AutoModelForCausalLM"] = AutoModelForCausalLM
    for name in ("load_recipe", "plan", "forecast", "run", "evaluate", "compare", "Model", "distill", "Trainer"):
        code = example(name).replace("max_new_tokens=8", "max_new_tokens=8, max_steps=2, test=8")
        for model in re.findall(r"HuggingFaceTB/[\w.-]+", code):
            code = code.replace(model, str(workshop.models / ("teacher" if "360M" in model else "student")))
        exec(code, names)
    assert (workshop.folder / "models" / "sums-gkd").is_dir()
    assert (workshop.folder / "mine" / "model.safetensors").is_file()
