"""The page of a forecast: one self-contained HTML file, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.common.files import write_atomically
from tutelage.common.html import page_template
from tutelage.forecasting.answer import control_curve, plus
from tutelage.forecasting.forecast import OWN_PRICE, Forecast
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.price import Price, dear_text
from tutelage.report.drawing import GREY, INK, LINE, MUTED, PALETTE, Draw, inline_svgs
from tutelage.report.labels import metric_label
from tutelage.report.numbers import number, signed

FILE, DATA = "forecast.html", "forecast.json"
TONES = {"distil": "better", "fine-tune only": "worse"}
SIGNAL_NAMES = {
    "student_score": "student's score",
    "teacher_score": "teacher's score",
    "student_loss": "student's loss on right answers, nats per token",
    "teacher_loss": "teacher's loss on right answers, nats per token",
    "kl": "KL(teacher ‖ student) on right answers, nats per token",
    "kl_label": "of it, about the right token, which labels say too",
    "kl_rest": "of it, about other tokens, which no label says",
    "kl_own": "KL(teacher ‖ student) on the student's own answers",
    "teacher_entropy": "teacher's entropy on right answers, nats",
    "teacher_ece": "teacher's calibration error (0 is perfect)",
    "lead_ends": "share of the teacher's lead in loss on the first and the last token: form, not content",
    "tokens_per_weight": "response tokens per weight of the student",
}


# Of docs/results/bench/forecast.json, tasks left out, in points.
WORTH = (
    "Forecasts of situations with a known outcome, each from other tasks alone, had 60 of 72 measured gains inside the "
    "80 % interval, and were right about the sign of 40 of 47 clear ones; of a kind of teacher that no earlier "
    "situation has, of 30 of 47. The rule was chosen in sight of them. Its form before was right about two of three "
    "recipes forecast blind, and one gain was inside its interval."
)


def write_forecast(forecast: Forecast, out: Path, overrides: Sequence[str] = ()) -> Path:
    """Write forecast.html and forecast.json into the folder `out`; return the page's path. `overrides`: keys of the
    recipe file that the command changed, as key=value."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / DATA, json.dumps(forecast.as_json(), indent=1, ensure_ascii=False) + "\n")
    panels = _panels(forecast)
    template = page_template(
        "tutelage.forecasting",
        "page.html.j2",
        {"plus": plus, "metric": metric_label, "number": number, "signed": signed},
    )
    html = template.render(
        forecast=forecast,
        answer=forecast.answer,
        overrides=overrides,
        known=forecast.known,
        tone=TONES.get(forecast.answer.choice, "unclear"),
        gain=forecast.score.gain,
        interval=interval_text(forecast.score.gain, 1),
        loss=loss_words(forecast.loss.gain),
        chance=chance_text(1 - forecast.score.gain.below(0.0)),
        dear=dear_text(forecast.prices[OWN_PRICE], forecast.both),
        prices=[(name, *price_cells(price)) for name, price in forecast.prices.items()],
        informed=informed_text(forecast),
        worth=WORTH,
        signals=[(SIGNAL_NAMES[k], f"{v:.3g}") for k, v in forecast.known.signals.items() if k in SIGNAL_NAMES],
        svgs=inline_svgs((5.4, 3.5), "forecast", [draw for _, draw in panels]),
        titles=[title for title, _ in panels],
    )
    return write_atomically(out / FILE, html)


def forecast_lines(forecast: Forecast) -> list[str]:
    """The forecast in a few lines for a terminal."""
    answer = forecast.answer
    lines = [f"{answer.choice}: {answer.why}", f"gain in {metric_label(forecast.known.metric)}, {_gain_text(forecast)}"]
    lines += [f"  because: {text}" for text in answer.decided]
    lines += [f"  {finding.name.replace('_', ' ')}: {finding.text}: {finding.do}" for finding in answer.findings]
    lines += [f"  {name}: {', '.join(price_cells(price))}" for name, price in forecast.prices.items()]
    dear = dear_text(forecast.prices[OWN_PRICE], forecast.both)
    return [*lines, *filter(None, [dear]), informed_text(forecast)]


def _gain_text(forecast: Forecast) -> str:
    gain = forecast.score.gain
    return (
        f"GKD against SFT again: {plus(gain.mean)} points (80 %: {interval_text(gain, 1)}), above 0 with "
        + chance_text(1 - gain.below(0.0))
    )


def informed_text(forecast: Forecast) -> str:
    """By how many situations the forecast was informed, and what that means."""
    count, pilots = forecast.score.situations, forecast.score.pilots
    with_pilots = f"{pilots} of them with pilots like these" if pilots else "none of them with a pilot"
    few = "" if pilots >= 20 else ": so few that the interval is wide, and mostly a plain rule"
    return f"informed by {count} earlier situations, {with_pilots}{few}"


def interval_text(gain: Mixture, digits: int) -> str:
    """ "−0.3 to 1.1", the ends of the 80 % interval."""
    low, high = gain.interval()
    return f"{signed(low, digits)} to {signed(high, digits)}"


def loss_words(gain: Mixture) -> tuple[str, str]:
    """What GKD adds to the loss, and the ends of its 80 % interval: ("0.412 nats less", "0.237 to 0.586 less"), with
    both words where the interval has 0 in it: "0.010 more to 0.110 less". `gain`: how much less."""

    def word(value: float) -> str:
        return "less" if value >= 0 else "more"

    mean, *ends = (float(f"{value:.3f}") for value in (gain.mean, *gain.interval()))
    ends.sort(key=lambda end: (word(end) == word(mean), abs(end)))
    first, last = (f"{abs(end):.3f} {word(end)}" for end in ends)
    same = word(ends[0]) == word(ends[1])
    return f"{abs(mean):.3f} nats {word(mean)}", f"{first.split()[0] if same else first} to {last}"


def chance_text(chance: float) -> str:
    """A probability as people say it: "72 %", "under 1 %"."""
    return "under 1 %" if chance < 0.01 else "over 99 %" if chance > 0.99 else f"{100 * chance:.0f} %"


def price_cells(price: Price) -> tuple[str, str, str]:
    """Time here, GPU hours and dollars on one H100, as text."""
    if price.seconds is None:
        here = "time not known"
    elif price.seconds < 100:
        here = f"{price.seconds:.0f} s here"
    else:
        here = f"{price.seconds / 60:.0f} min here" if price.seconds < 5400 else f"{price.seconds / 3600:,.1f} h here"
    if price.gpu_hours is None or price.dollars is None:
        return here, "no figure on an H100", "model of unknown shape"
    hours = f"{price.gpu_hours:.1f}" if price.gpu_hours >= 1 else f"{price.gpu_hours:.2g}"
    return here, f"{hours} GPU hours on an H100", f"{price.dollars:,.2f} $"


def _panels(forecast: Forecast) -> list[tuple[str, Draw]]:
    """Title and drawing of each figure."""
    panels: list[tuple[str, Draw]] = [("What distilling adds, by rows", lambda axes: _draw_gain(axes, forecast))]
    if control_curve(forecast.known) is not None:
        panels.append(("The learning curve", lambda axes: _draw_scores(axes, forecast)))
    return panels


def _draw_gain(axes: Any, forecast: Forecast) -> None:
    rows, _, low, high = zip(*forecast.band, strict=True)
    axes.fill_between(rows, low, high, color=PALETTE[5], alpha=0.25, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axhline(forecast.effect, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(
        "worth having", (rows[0], forecast.effect), (0, 3), textcoords="offset points", fontsize=8, color=MUTED
    )
    for pilot in forecast.known.pilots:
        axes.errorbar(pilot.rows, pilot.gain, 1.2816 * pilot.gain_se, fmt="o", color=PALETTE[0], capsize=3)
    gain = forecast.score.gain
    ends = gain.interval()
    axes.plot([forecast.known.rows] * 2, ends, color=INK, linewidth=2.5, solid_capstyle="round")
    axes.plot([forecast.known.rows], [gain.mean], "D", color=INK, markersize=7)
    _label_last(axes, forecast.known.rows, gain.mean, "forecast")
    _finish(axes, forecast, "GKD − SFT again, points")


def _draw_scores(axes: Any, forecast: Forecast) -> None:
    known, curve = forecast.known, control_curve(forecast.known)
    assert curve is not None
    rows = [point[0] for point in forecast.band]
    ends = [curve.at(one).interval() for one in rows]
    axes.fill_between(rows, [e[0] for e in ends], [e[1] for e in ends], color=GREY, alpha=0.22, linewidth=0)
    axes.plot(rows, [curve.at(one).mean for one in rows], color=GREY, linewidth=1.5)
    sizes = [pilot.rows for pilot in known.pilots]
    axes.plot(sizes, [pilot.again for pilot in known.pilots], "s", color=GREY, label="SFT again")
    axes.plot(sizes, [pilot.again + pilot.gain for pilot in known.pilots], "o", color=PALETTE[0], label="GKD")
    if all(pilot.teacher is not None for pilot in known.pilots):
        axes.plot(sizes, [pilot.teacher for pilot in known.pilots], "^", color=PALETTE[1], label="teacher")
    gain, at = forecast.score.gain, curve.at(known.rows).mean
    low, high = gain.interval()
    axes.plot([known.rows] * 2, [at + low, at + high], color=INK, linewidth=2.5)
    axes.plot([known.rows], [at + gain.mean], "D", color=INK, markersize=7, label="GKD, forecast")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    _finish(axes, forecast, metric_label(forecast.known.metric))


def _label_last(axes: Any, rows: float, value: float, text: str) -> None:
    axes.annotate(text, (rows, value), (8, 6), textcoords="offset points", fontsize=9, color=INK)


def _finish(axes: Any, forecast: Forecast, label: str) -> None:
    """Axes of all figures: rows, logarithmic, with the pilots' and the recipe's sizes marked."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    ticks = [*(pilot.rows for pilot in forecast.known.pilots), forecast.known.rows]
    axes.set_xticks(ticks, [f"{rows:,.0f}" for rows in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training rows")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
