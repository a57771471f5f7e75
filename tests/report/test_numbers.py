"""How scores are written."""

from __future__ import annotations

import math

import pytest

from tutelage.api.results import Score, _score
from tutelage.evaluation.run_benchmarks import score_words
from tutelage.report.numbers import edge_note, score_text
from tutelage.report.scores import MetricValue


@pytest.mark.parametrize(
    ("metric", "value", "stderr", "written"),
    [
        ("exact_match", 43.44, 0.51, "43.4 ± 0.5"),
        ("exact_match", 43.44, math.nan, "43.4"),
        ("exact_match", 100.0, 0.0, "100.0 (≥ 95.1)"),  # 0.05^(1/60) = 0.9513
        ("rouge_l", 0.0, 0.0, "0.0 (≤ 4.9)"),
        ("loss", 0.0, 0.0, "0.000 ± 0.000"),
    ],
)
def test_an_error_of_0_is_a_bound(metric: str, value: float, stderr: float, written: str) -> None:
    shown = score_text(MetricValue(metric=metric, value=value, stderr=stderr, seeds=(0,), examples=60))
    assert shown == written
    assert bool(edge_note(["x", shown])) == ("(" in written)


def test_commands_and_python_write_bounds_too() -> None:
    assert score_words("exact_match", {"value": 100.0, "stderr": 0.0}, 60) == "100.00 (≥ 95.13)"
    assert score_words("exact_match", {"value": 100.0, "stderr": None}, 1) == "100.00 ± unknown"
    assert _score(Score("gkd", "test", "exact_match", 0.0, 0.0, 60)) == "0.00 (≤ 4.87)"
    assert _score(Score("gkd", "test", "exact_match", 50.0, 6.5, 60)) == "50.00 ± 6.50"
