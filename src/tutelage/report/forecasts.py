"""Forecasts that were kept before a study's runs (`forecast/kept.py`), beside what came out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.evaluation.metrics import has_word
from tutelage.evaluation.statistics import Paired
from tutelage.report.comparisons import swapped
from tutelage.report.numbers import MINUS, signed
from tutelage.report.study.results import Arm, Result, Study

AGAIN = "sft_again"
UNITS = ("gain", "loss_gain")  # of a forecast
WIDTH, HEIGHT = 180.0, 22.0  # of a row's drawing, in its own units


@dataclass(frozen=True)
class ForecastRow:
    """One forecast beside one measured result, as text; `why` instead of both where it could not be told."""

    result: Result
    expected: str = ""
    measured: str = ""
    inside: str = ""  # the measured gain is inside, above or below the 80 % interval
    answer: str = ""
    late: bool = False  # the result was there before the forecast
    why: str = ""
    svg: str = ""


def forecasts_file(study: str) -> str:
    """The name of the file in the runs folder."""
    return f"{study}.forecasts.json"


def forecast_rows(study: Study, file: Path) -> list[ForecastRow]:
    """One row for each distilled model and task that was forecast, then one for each model without a forecast, with the
    reason. A file that cannot be read has none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = {Arm(*(one[name] for name in ("size", "student", "method", "teacher"))): one for one in content}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    pairs = [(result, kept[arm]) for (arm, _), result in study.results.items() if arm in kept and not result.of]
    fit = [pair for pair in pairs if _unit(study, *pair) and "error" not in pair[1]]
    ends = {unit: _ends(study, [pair for pair in fit if _unit(study, *pair) == unit], unit) for unit in UNITS}
    rows = [_row(study, result, one, ends) for result, one in fit]
    without = {result.arm: (result, one) for result, one in reversed(pairs)}  # the first of each arm
    for arm in {result.arm for result, _ in fit}:
        del without[arm]
    other = "it is on another task of the template, or by another metric"
    return rows + [ForecastRow(result, why=one.get("error", other)) for result, one in reversed(without.values())]


def _unit(study: Study, result: Result, kept: dict[str, Any]) -> str:
    """Which of the two gains of a forecast this result has; empty for neither."""
    if result.task in study.held_out and not has_word(result.metric, "kl"):
        return "loss_gain"
    return "gain" if result.cells[0].task in kept["tasks"] and result.metric in ("", kept.get("metric")) else ""


def _measured(study: Study, result: Result) -> Paired | None:
    """The gain over SFT again, where more is better; None where one is missing."""
    arm = result.arm
    found = study.compare(result, study.find(arm.student, AGAIN, arm.size, result.task))
    return swapped(found) if found is not None and result.task in study.held_out else found


def _ends(study: Study, pairs: list[tuple[Result, dict[str, Any]]], unit: str) -> tuple[float, float]:
    """The range of all intervals and measured gains, 0 in it."""
    values = [0.0]
    for result, one in pairs:
        found = _measured(study, result)
        values += [one[unit]["low"], one[unit]["high"]]
        values += [] if found is None else [found.difference - found.stderr, found.difference + found.stderr]
    return min(values), max(values)


def _row(study: Study, result: Result, kept: dict[str, Any], ends: dict[str, tuple[float, float]]) -> ForecastRow:
    unit = _unit(study, result, kept)
    digits, found, gain = 1 if unit == "gain" else 3, _measured(study, result), kept[unit]
    expected = f"{_plus(gain['mean'], digits)} ({signed(gain['low'], digits)} to {signed(gain['high'], digits)})"
    measured, inside = "missing", ""
    if found is not None:
        measured = f"{_plus(found.difference, digits)} ± {found.stderr:.{digits}f}"
        inside = "above" if found.difference > gain["high"] else "below" if found.difference < gain["low"] else "inside"
    elif study.find(result.arm.student, AGAIN, result.arm.size, result.task) is None:
        measured = "no SFT again in this study"
    svg = _drawn(gain, found, ends[unit])
    return ForecastRow(result, expected, measured, inside, kept["answer"], bool(kept["measured"]), svg=svg)


def _drawn(gain: dict[str, float], found: Paired | None, ends: tuple[float, float]) -> str:
    """The interval as a bar with its mean, the measured gain as a dot with its standard error, and 0 as a line."""

    def at(value: float) -> str:
        return f"{8 + (WIDTH - 16) * (value - ends[0]) / ((ends[1] - ends[0]) or 1.0):.1f}"

    ink, line, own, middle = "var(--ink)", "var(--muted)", "var(--link)", HEIGHT / 2  # the page's colours
    parts = [
        f'<line x1="{at(0)}" x2="{at(0)}" y1="0" y2="{HEIGHT}" stroke="{line}" stroke-dasharray="2 2"/>',
        f'<line x1="{at(gain["low"])}" x2="{at(gain["high"])}" y1="{middle - 4}" y2="{middle - 4}" stroke="{ink}" '
        f'stroke-width="3"/><circle cx="{at(gain["mean"])}" cy="{middle - 4}" r="3.5" fill="{ink}"/>',
    ]
    if found is not None:
        low, high = found.difference - found.stderr, found.difference + found.stderr
        parts.append(
            f'<line x1="{at(low)}" x2="{at(high)}" y1="{middle + 5}" y2="{middle + 5}" stroke="{own}" '
            f'stroke-width="1.5"/><circle cx="{at(found.difference)}" cy="{middle + 5}" r="3.5" fill="{own}"/>'
        )
    return f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" aria-hidden="true">{"".join(parts)}</svg>'


def _plus(value: float, digits: int) -> str:
    text = signed(value, digits)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"
