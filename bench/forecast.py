"""What a forecast is worth: the situations with a known outcome, each forecast from the others alone.

    python -m bench.forecast --json docs/results/bench/forecast.json

Twice: with all situations of its task left out, and with all of its kind of teacher left out, and then with those too
that were measured against the same runs of SFT again. Each forecast goes on to a larger pilot by the rule of
`tutelage forecast`, and its price is that of the pilots it took. Beside it five rivals that see the same: always
distil; never; the paper's rule (fewer than 80,000 rows, or a teacher that knows more than the data); the teacher's lead
over the student alone; the last pilot's gain alone.

    coverage     share of measured gains inside the 80 % interval, widened by the error of the measurement
    sign         share of the situations whose gain exceeds two standard errors for which the choice was right
    regret       by how much the better arm scores more than the chosen one, mean over all situations
    wasted       GPU hours spent on GKD beyond SFT again where its gain was not above 0, and on the forecast itself

The better arm is the one that was measured to be better, so noise adds to everyone's regret alike. Ranges are 95 % by
resampling whole tasks, since situations of one task are alike.

The paper's table 3 is 27 further situations for what can read it: rows, and smaller sizes as pilots. Its opponent is
SFT, not SFT again, and it prints no errors; PAPER_ERROR is assumed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from tutelage.forecasting.answer import EFFECT, is_decided
from tutelage.forecasting.forecast import BUDGET
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.prior import Target, predict, teacher_lead
from tutelage.forecasting.situations import SAME, Pilot, Situation, read_situations, shipped_situations
from tutelage.report.labels import AVERAGE
from tutelage.report.study.paper_values import paper_values

PAPER_ROWS = 80_000
KNOWS_MORE = ("more", "untouched")  # teachers that know more than the rows
PAPER_ERROR = 0.7  # points, of an average of five benchmarks
SURE = 2.0  # standard errors from which on a measured gain has a sign
DRAWS = 2000  # of tasks
Rule = Callable[[Situation], bool]
RIVALS: dict[str, Rule] = {
    "always": lambda one: True,
    "never": lambda one: False,
    "paper": lambda one: one.rows < PAPER_ROWS or one.teacher in KNOWS_MORE,
    "lead": lambda one: (teacher_lead(one) or 0.0) > 0,
    "pilot": lambda one: one.pilots[-1].gain > 0 if one.pilots else (teacher_lead(one) or 0.0) > 0,
}


def backtest(situations: Sequence[Situation], left_out: str, target: Target = "score") -> dict[str, Any]:
    """Forecast every situation with a known gain from those that differ from it in `left_out` (`task` or `teacher`)."""
    cases, gains = [], list[Mixture]()  # as far as each forecast looked, and what it said
    for one in situations:
        if outcome(one, target)[0] is not None:
            others = [o for o in situations if getattr(o, left_out) != getattr(one, left_out) and not _alike(o, one)]
            cases.append(as_seen(one, others))
            gains.append(predict(cases[-1], others, target).gain)
    errors = [outcome(one, target) for one in cases]
    ends = [gain.measured(error).interval() for gain, (_, error) in zip(gains, errors, strict=True)]
    covered = [low <= truth <= high for (low, high), (truth, _) in zip(ends, errors, strict=True)]
    widths = [gain.interval()[1] - gain.interval()[0] for gain in gains]
    chosen = {one.name: gain.below(0.0) < 0.5 for one, gain in zip(cases, gains, strict=True)}
    told = {
        one.name for one, gain in zip(cases, gains, strict=True) if not gain.interval()[0] <= 0 <= gain.interval()[1]
    }
    shown = [one for one in cases if _has_sign(one, target)]
    right = [_is_right(one, chosen, target) for one in shown]
    priced = [one for one in cases if one.hours_again and one.hours_gkd]
    costs = [(one.pilots[-1], one.hours_both) for one in cases if one.pilots]
    shares = [pilot.hours / both for pilot, both in costs if pilot.hours and both]
    works = [pilot.work_share for pilot, _ in costs if pilot.work_share]
    rivals = {name: {one.name: rule(one) for one in cases} for name, rule in RIVALS.items()}
    regrets = {name: _regret(cases, choice, target) for name, choice in rivals.items()}
    return {
        "situations": len(cases),
        "tasks": len({one.task for one in cases}),
        "pilots": dict(sorted(Counter(len(one.pilots) for one in cases).items())),
        "coverage_80": _mean(covered),
        "coverage_80_range": _range(covered, [one.task for one in cases]),
        "width_80_median": median(widths) if widths else None,
        "width_80_measured_median": median(high - low for low, high in ends) if ends else None,
        "sign_cases": len(shown),
        "sign_accuracy": _mean(right),
        "sign_accuracy_range": _range(right, [one.task for one in shown]),
        "told_cases": sum(one.name in told for one in shown),
        "told_accuracy": _mean([_is_right(one, chosen, target) for one in shown if one.name in told]),
        "rivals": {name: _accuracy(shown, choice, target) for name, choice in rivals.items()},
        "regret": _regret(cases, chosen, target),
        "rival_regret": min((r for r in regrets.values() if r is not None), default=None),
        "rival_regrets": regrets,
        "wasted_gpu_hours": _wasted(priced, chosen, target, True),
        "rival_wasted_gpu_hours": {name: _wasted(priced, choice, target, False) for name, choice in rivals.items()},
        "cost_share_median": median(shares) if shares else None,
        "work_share_median": median(works) if works else None,
        "misses": [one.name for one in shown if not _is_right(one, chosen, target)],
    }


def as_seen(one: Situation, others: Sequence[Situation]) -> Situation:
    """The situation with the pilots that `tutelage forecast` would have made: the next only while the interval decides
    nothing and the forecast, with that pilot, stays within BUDGET. Whoever decides, it is by the score."""
    for count in range(1, len(one.pilots)):
        seen = replace(one, pilots=one.pilots[:count])
        if (one.pilots[count].work_share or 0.0) > BUDGET or is_decided(predict(seen, others).gain, EFFECT):
            return seen
    return one


def _alike(other: Situation, one: Situation) -> bool:
    """Whether both gains are against the same runs of SFT again, whose luck one would tell of the other."""
    return (other.task, other.student, other.rows) == (one.task, one.student, one.rows)


def outcome(one: Situation, target: Target) -> Any:
    """The measured gain and its standard error, both None where one is not known."""
    found = (one.gain, one.gain_se) if target == "score" else (one.loss_gain, one.loss_gain_se)
    return (None, None) if None in found else found


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
            pilots = tuple(Pilot(size, gains[size][0], PAPER_ERROR, 0.0, 1.0, gains[size][1])
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
        "rivals": {
            name: _accuracy(shown, {one.name: rule(one) for one in cases}, "score") for name, rule in RIVALS.items()
        },
    }


def report(situations: Sequence[Situation]) -> dict[str, Any]:
    """Everything: the keys of the first level are those of tasks left out, by the metric."""
    return backtest(situations, "task") | {
        "loss": backtest(situations, "task", "loss"),
        "teacher_kind_out": backtest(situations, "teacher"),
        "teacher_kind_out_loss": backtest(situations, "teacher", "loss"),
        "paper_table3": paper_test(situations),
    }


def _has_sign(one: Situation, target: Target) -> bool:
    gain, error = outcome(one, target)
    return gain is not None and abs(gain) > SURE * error


def _is_right(one: Situation, chosen: dict[str, bool], target: Target) -> bool:
    return chosen[one.name] == (outcome(one, target)[0] > 0)


def _accuracy(shown: Sequence[Situation], chosen: dict[str, bool], target: Target) -> float | None:
    return _mean([_is_right(one, chosen, target) for one in shown])


def _regret(cases: Sequence[Situation], chosen: dict[str, bool], target: Target) -> float | None:
    """In points or nats."""
    gains = [(outcome(one, target)[0], chosen[one.name]) for one in cases]
    return _mean([max(gain, 0.0) - (gain if distil else 0.0) for gain, distil in gains])


def _wasted(cases: Sequence[Situation], chosen: dict[str, bool], target: Target, forecast: bool) -> float | None:
    """`forecast`: with the hours of the forecasts themselves."""
    spent = []
    for one in cases:
        vain = chosen[one.name] and outcome(one, target)[0] <= 0
        own = (one.pilots[-1].hours or 0.0) if forecast and one.pilots else 0.0
        spent.append(((one.hours_gkd or 0.0) - (one.hours_again or 0.0)) * vain + own)
    return _mean(spent)


def _range(values: Sequence[bool], tasks: Sequence[str]) -> tuple[float, float] | None:
    """The 95 % range of a mean when whole tasks are drawn anew; None with fewer than two."""
    names = sorted(set(tasks))
    if len(names) < 2:
        return None
    sums = np.array([[sum(v for v, t in zip(values, tasks, strict=True) if t == name), tasks.count(name)]  # type: ignore[attr-defined]
                     for name in names], dtype=np.float64)  # fmt: skip
    drawn = sums[np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


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
