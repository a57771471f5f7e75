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
PUBLIC = ["Comparison", "Evaluation", "Forecast", "Model", "Plan", "RunResult", "Trainer", "TrainingResult",
          "TutelageError", "compare", "distill", "evaluate", "forecast", "load_recipe", "plan", "run"]  # fmt: skip
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


def test_no_package_hides_a_public_name() -> None:
    """A package of that name, once imported, would take the function's place."""
    assert not {path.stem for path in Path(tutelage.__file__).parent.iterdir()} & set(PUBLIC)


@pytest.mark.parametrize("name", ["Trainer", "distill"])
def test_threads_wait_briefly_before_torch_is_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = f"""
import json, os, sys, tutelage
class Stop:
    def find_spec(self, module, *_):
        if module == "torch":
            raise ImportError("not now")
sys.meta_path.insert(0, Stop())
first = os.environ.get("GOMP_SPINCOUNT")
try:
    tutelage.{name}
except ImportError:
    pass
print(json.dumps([first, os.environ.get("GOMP_SPINCOUNT")]))"""
    assert in_new_python(code) == [None, "1000"]


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


def test_a_forecast_is_a_table_of_pilots_and_forecasts() -> None:
    from tutelage.api.results import Gain

    gains = (
        Gain("forecast", 1000, "rouge_l", 1.26, -0.31, 2.8, 0.875),
        Gain("forecast", 1000, "loss", 0.02, 0.01, 0.03),
    )
    pilots = (Gain("pilot", 62, "rouge_l", -0.04, -1.0, 0.9),)
    prices = {"SFT": {"gpu_hours": 0.4, "seconds": 90.0}, "GKD": dict.fromkeys(("gpu_hours", "seconds"))}
    words = (("lead (+0.1 points)",), ("few dev rows: 8: give 30",), ())
    last = ({}, prices, "", "by 9", Path("p.html"))
    found = tutelage.Forecast("x", "distil", "it gains", *gains, pilots, *words, *last)
    lines = repr(found).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["pilot", "62", "rouge_l", "0.0", "−1.0", "to", "+0.9"],
        ["forecast", "1,000", "rouge_l", "+1.3", "−0.3", "to", "+2.8", "88", "%"],
        ["forecast", "1,000", "loss", "+0.020", "+0.010", "to", "+0.030"],
    ]
    assert lines[5:8] == ["distil: it gains", "because: lead (+0.1 points)", "few dev rows: 8: give 30"]
    assert lines[8:] == ["SFT: 1.5 min here, 0.4 GPU hours on an H100", "GKD: not known", "by 9", "Page: p.html"]
    frame = found.frame()
    assert list(frame["rows"]) == [62, 1000, 1000]
    assert list(frame["value"]) == [-0.04, 1.26, 0.02]
    assert "<td>+1.3</td>" in found._repr_html_()
