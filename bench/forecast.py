"""What a forecast is worth: the situations with a known outcome, each forecast from the others alone.

    python -m bench.forecast --json docs/results/bench/forecast.json

Twice: with all situations of its task left out, and with all of its kind of teacher left out. Beside four rivals that
need no forecast: always distil; never; the paper's rule (fewer than 80,000 rows, or a teacher that knows more than the
data); and the teacher's lead over the student alone. A forecast and the rivals choose the arm; the regret is what the
better arm would have scored more, and the GPU hours that were spent on distilling where it did not help.

The paper's table 3 is 27 further situations for what can read it: rows, and smaller sizes as pilots. Its opponent is
SFT, not SFT again, and it prints no errors; PAPER_ERROR is assumed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from tutelage.forecasting.prior import Target, predict, teacher_lead
from tutelage.forecasting.situations import SAME, Pilot, Situation, read_situations, shipped_situations
from tutelage.report.labels import AVERAGE
from tutelage.report.study.paper_values import paper_values

PAPER_ROWS = 80_000
KNOWS_MORE = ("more", "untouched")  # teachers that know more than the rows
PAPER_ERROR = 0.7  # points, of an average of five benchmarks
SURE = 2.0  # standard errors from which on a measured gain has a sign
Rule = Callable[[Situation], bool]
RIVALS: dict[str, Rule] = {
    "always": lambda one: True,
    "never": lambda one: False,
    "paper": lambda one: one.rows < PAPER_ROWS or one.teacher in KNOWS_MORE,
    "lead": lambda one: (teacher_lead(one) or 0.0) > 0,
}


def backtest(situations: Sequence[Situation], left_out: str, target: Target = "score") -> dict[str, Any]:
    """Forecast every situation with a known gain from those that differ from it in `left_out` (`task` or `teacher`)."""
    cases = [one for one in situations if outcome(one, target)[0] is not None]
    covered, widths, chosen = [], [], {}
    for one in cases:
        gain, error = outcome(one, target)
        assert gain is not None
        assert error is not None
        others = [other for other in cases if getattr(other, left_out) != getattr(one, left_out)]
        forecast = predict(one, others, target).gain
        low, high = forecast.measured(error).interval()
        covered.append(low <= gain <= high)
        widths.append(forecast.interval()[1] - forecast.interval()[0])
        chosen[one.name] = forecast.below(0.0) < 0.5
    shown = [one for one in cases if _has_sign(one, target)]
    hours = [one for one in cases if one.hours_again and one.hours_gkd]
    shares = [one.hours_forecast / (one.hours_again + one.hours_gkd) for one in hours if one.hours_forecast]  # type: ignore[operator]
    works = [one.work_share for one in cases if one.work_share]
    rivals = {name: _choices(cases, rule) for name, rule in RIVALS.items()}
    regrets = {name: _regret(cases, choice, target) for name, choice in rivals.items()}
    wasted = {name: _wasted(hours, choice, target, False) for name, choice in rivals.items()}
    return {
        "situations": len(cases),
        "with_pilots": sum(bool(one.pilots) for one in cases),
        "coverage_80": _mean(covered),
        "width_80_median": median(widths) if widths else None,
        "sign_cases": len(shown),
        "sign_accuracy": _accuracy(shown, chosen, target),
        "rivals": {name: _accuracy(shown, choice, target) for name, choice in rivals.items()},
        "regret": _regret(cases, chosen, target),
        "rival_regret": min((r for r in regrets.values() if r is not None), default=None),
        "rival_regrets": regrets,
        "wasted_gpu_hours": _wasted(hours, chosen, target, True),
        "rival_wasted_gpu_hours": wasted,
        "cost_share_median": median(shares) if shares else None,
        "work_share_median": median(works) if works else None,
        "misses": [one.name for one in shown if chosen[one.name] != ((outcome(one, target)[0] or 0.0) > 0)],
    }


def outcome(one: Situation, target: Target) -> tuple[float | None, float | None]:
    """The measured gain and its standard error."""
    return (one.gain, one.gain_se) if target == "score" else (one.loss_gain, one.loss_gain_se)


def paper_situations() -> list[Situation]:
    """The paper's table 3: the average of five benchmarks, with the sizes from a 33rd to a quarter as pilots."""
    paper, found = paper_values(), []
    for student, sizes in paper.content["table3"].items():
        gains = {}
        for rows in sizes:
            scores = [paper.general(student, rows, method, AVERAGE) for method in ("gkd_sft", "sft")]
            assert scores[0] is not None
            assert scores[1] is not None
            gains[rows] = (scores[0] - scores[1], scores[1])
        for rows, (gain, sft) in gains.items():
            smaller = [size for size in gains if rows / 33 <= size <= rows / 4]
            pilots = tuple(Pilot(size, gains[size][0], PAPER_ERROR, 0.0, 1.0, gains[size][1], gains[size][1])
                           for size in smaller[-3:])  # fmt: skip
            found.append(
                Situation(
                    name=f"{student}-{rows}",
                    source="table 3 of the paper",
                    task="tulu",
                    metric="average",
                    teacher=SAME,
                    student=student,
                    rows=float(rows),
                    gain=gain,
                    gain_se=PAPER_ERROR,
                    again=sft,
                    pilots=pilots,
                )
            )
    return found


def paper_test(situations: Sequence[Situation]) -> dict[str, Any]:
    """The paper's situations, forecast from `situations`, none of which is the paper's."""
    cases = paper_situations()
    found = [predict(one, situations).gain for one in cases]
    ends = [gain.measured(PAPER_ERROR).interval() for gain in found]
    inside = [low <= (one.gain or 0.0) <= high for one, (low, high) in zip(cases, ends, strict=True)]
    chosen = {one.name: gain.below(0.0) < 0.5 for one, gain in zip(cases, found, strict=True)}
    shown = [one for one in cases if _has_sign(one, "score")]
    return {
        "situations": len(cases),
        "with_pilots": sum(bool(one.pilots) for one in cases),
        "coverage_80": _mean(inside),
        "sign_cases": len(shown),
        "sign_accuracy": _accuracy(shown, chosen, "score"),
        "rivals": {name: _accuracy(shown, _choices(cases, rule), "score") for name, rule in RIVALS.items()},
    }


def report(situations: Sequence[Situation]) -> dict[str, Any]:
    """Everything: the keys of the first level are those of tasks left out, by the metric."""
    return backtest(situations, "task") | {
        "loss": backtest(situations, "task", "loss"),
        "teacher_kind_out": backtest(situations, "teacher"),
        "teacher_kind_out_loss": backtest(situations, "teacher", "loss"),
        "paper_table3": paper_test(situations),
    }


def _choices(cases: Sequence[Situation], rule: Rule) -> dict[str, bool]:
    return {one.name: rule(one) for one in cases}


def _has_sign(one: Situation, target: Target) -> bool:
    gain, error = outcome(one, target)
    return gain is not None and error is not None and abs(gain) > SURE * error


def _accuracy(shown: Sequence[Situation], chosen: dict[str, bool], target: Target) -> float | None:
    return _mean([chosen[one.name] == ((outcome(one, target)[0] or 0.0) > 0) for one in shown])


def _regret(cases: Sequence[Situation], chosen: dict[str, bool], target: Target) -> float | None:
    """How much more the better arm scores on average than the chosen one, in points or nats."""
    gains = [(outcome(one, target)[0] or 0.0, chosen[one.name]) for one in cases]
    return _mean([max(gain, 0.0) - (gain if distil else 0.0) for gain, distil in gains])


def _wasted(cases: Sequence[Situation], chosen: dict[str, bool], target: Target, forecast: bool) -> float | None:
    """GPU hours on average spent on GKD beyond SFT again where it did not help, and on the forecast itself."""
    spent = []
    for one in cases:
        assert one.hours_gkd is not None
        assert one.hours_again is not None
        vain = chosen[one.name] and (outcome(one, target)[0] or 0.0) <= 0
        spent.append((one.hours_gkd - one.hours_again) * vain + (one.hours_forecast or 0.0) * forecast)
    return _mean(spent)


def _mean(values: Sequence[float]) -> float | None:
    return mean(map(float, values)) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="a table of situations; default: the one that ships")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    table = options.table
    situations = (
        shipped_situations() if table is None else read_situations(table.read_text(encoding="utf-8"), str(table))
    )
    found = report(situations)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
