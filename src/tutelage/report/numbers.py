"""How numbers, differences, intervals and p-values are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from tutelage.evaluation.compare import edge_text
from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.statistics import Paired
from tutelage.report.scores import MetricValue

Tone = Literal["better", "worse", "unclear"]
MINUS = "−"
EDGE = "≥ and ≤: 95 % bounds, where all examples score the same"
NARROW = "\u202f"  # a narrow space at which no line breaks


def decimals(values: Iterable[float]) -> int:
    """How many decimals to show: 1, or as many (up to 3) as keep small values from rounding to 0 and the ends of an
    interval apart."""
    values = list(values)
    sizes = [abs(value) for value in values]
    digits = 3 if 0 < max(sizes) < 0.1 else 2 if any(0 < size < 0.1 for size in sizes) else 1
    while digits < 3 and 0 < max(values) - min(values) < 2 * 10.0**-digits:
        digits += 1
    return digits


def score_text(value: MetricValue | None) -> str:
    """ "43.4 ± 0.5", the second number a standard error, left out where it is undefined; "100.0 (≥ 95.1)", with a 95 %
    bound, where every example has the same 0 or 100; or "missing", "unscored"."""
    if value is None or value.is_missing:
        return "missing" if value is None or not value.is_unscored else "unscored"
    if math.isnan(value.value):
        return "unscored"
    if edge := edge_text(value.metric, value.value, value.stderr, value.examples, 1):
        return edge
    error = "" if math.isnan(value.stderr) else f" ± {number_text(value.stderr, value.metric)}"
    return f"{number_text(value.value, value.metric)}{error}"


def edge_note(texts: Iterable[str]) -> str:
    """What a table's legend says of bounds, where a cell has one."""
    return f" {EDGE}." if any(" (≥ " in text or " (≤ " in text for text in texts) else ""


def number_text(value: float, metric: str) -> str:
    """One decimal of a score, three of a loss."""
    return f"{value:.{3 if lower_is_better(metric) else 1}f}"


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign; zero has none."""
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) > 0 else text


def difference_text(versus: Paired) -> str:
    """ "+0.8" or "−0.3"."""
    digits = decimals((versus.difference, versus.low, versus.high))
    text = signed(versus.difference, digits)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def interval_text(versus: Paired) -> str:
    """ "−0.3 to 1.1", the ends of the 95 % interval."""
    digits = decimals((versus.difference, versus.low, versus.high))
    return f"{signed(versus.low, digits)} to {signed(versus.high, digits)}"


def difference_and_interval(versus: Paired) -> str:
    """ "+0.8 (0.2 to 1.4)"."""
    return f"{difference_text(versus)} ({interval_text(versus)})"


def p_text(p_value: float) -> str:
    """ "p = 0.012" or "p < 0.001", with narrow spaces."""
    if p_value < 0.001:
        return f"p{NARROW}<{NARROW}0.001"
    return f"p{NARROW}={NARROW}{p_value:.{3 if p_value < 0.1 else 2}f}"


def number(value: Any) -> str:
    """A setting as people write it: 0.0001 as 1e-4, 6.0 as 6."""
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        if value and not -2 <= int(exponent) < 5:
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{value:g}"
    return str(value)
