"""What `import tutelage` is: quick, without torch, documented, and nothing but what it says."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tutelage

ROOT = Path(__file__).parents[2]
PUBLIC = ["Comparison", "Evaluation", "Model", "Plan", "RunResult", "Trainer", "TrainingResult", "TutelageError",
          "compare", "distill", "evaluate", "load_recipe", "plan", "run"]  # fmt: skip
FUNCTIONS = [name for name in PUBLIC if name[0].islower()]


def in_new_python(code: str) -> Any:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def test_only_these_names_are_public() -> None:
    assert tutelage.__all__ == PUBLIC
    assert [name for name in dir(tutelage) if not name.startswith("__")] == sorted(PUBLIC)
    with pytest.raises(AttributeError, match="module `tutelage` has no attribute `distil`; it has: Comparison, "):
        tutelage.distil  # type: ignore[attr-defined]  # noqa: B018


def test_import_loads_nothing_heavy_and_help_of_distill_no_torch() -> None:
    heavy = "[m for m in ('torch', 'transformers', 'pandas', 'matplotlib', 'pydantic') if m in sys.modules]"
    code = f"import json, sys, tutelage, pydoc; first = {heavy}; text = pydoc.render_doc(tutelage.distill); "
    code += "print(json.dumps([first, 'torch' in sys.modules, text]))"
    first, torch, text = in_new_python(code)
    assert (first, torch) == ([], False)
    plain = pydoc.plain(text)
    signature = inspect.signature(tutelage.distill)
    for name in signature.parameters:
        assert re.search(rf"^ +(\w+, )*{name}(, \w+)*: |\. {name}: ", plain, re.MULTILINE), name
    for word in ("Returns a `RunResult`", "Raises TutelageError", "Example:", "learning_rate", "on_policy"):
        assert word in plain


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_documented(name: str) -> None:
    found = getattr(tutelage, name)
    assert found.__doc__
    if name not in FUNCTIONS:
        members = [one for key, one in vars(found).items() if not key.startswith("_") and callable(one)]
        assert all(one.__doc__ for one in members)
        return
    for word in ("Returns", "Raises TutelageError", "Example:"):
        assert word in found.__doc__
    parameters = [*inspect.signature(found).parameters]
    assert [one for one in parameters if not re.search(rf"\b{one}\b[^.]*[:,]|\*\*{one}", found.__doc__)] == []
    assert all(one.annotation is not inspect.Parameter.empty for one in inspect.signature(found).parameters.values())


def test_docs_name_everything_public() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in PUBLIC if f"`{name}" not in page and f"tutelage.{name}" not in page] == []


def test_a_frame_without_pandas_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tutelage.TutelageError, match=r"^a frame needs pandas: pip install pandas$"):
        tutelage.Evaluation("m", (), {}).frame()


def test_results_escape_what_others_wrote() -> None:
    from pages import HOSTILE, Page

    from tutelage.api.results import Score

    found = tutelage.Evaluation(HOSTILE, (Score(HOSTILE, "t", "m", None, None, 3),), {}, (HOSTILE,))
    page = Page(found._repr_html_())
    assert not {"script", "img"} & {*page.tags}
    assert HOSTILE in page.text
    assert "unscored" in page.text


def test_differences_are_written_with_a_true_sign_and_zero_without() -> None:
    from tutelage.api.results import Difference

    numbers = [(-1.234, 0.001), (2.0, -0.001)]
    found = [Difference("t", "m", 1.0, None, one, other, 3.0, 0.0001, 5) for one, other in numbers]
    table = repr(tutelage.Comparison("x", "y", (*found,)))
    assert "unscored  −1.23  0.00 to +3.00  <0.001" in table
    assert "+2.00  0.00 to +3.00" in table
