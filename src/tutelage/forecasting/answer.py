"""The answer of a forecast: one of five, what decided, what it cannot know around, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tutelage.common.types import Conversation
from tutelage.evaluation.metrics import SCORERS
from tutelage.evaluation.statistics import FEW_EXAMPLES
from tutelage.forecasting.curves import Curve, fit_curve
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.prior import Prediction, score_scale, teacher_lead
from tutelage.forecasting.situations import SAME, Situation
from tutelage.report.numbers import signed

Choice = Literal[
    "distil", "fine-tune only", "take a stronger teacher", "get more data or synthetic rows first", "cannot be told"
]
EFFECT = 1.0  # points, below which a gain is not worth an arm
SURE = 0.8
SATURATED = 95.0
SMALL_LEAD = 3.0  # points
EXACT = ("exact_match", "final_answer")
Z80 = 1.2816  # the 80 % interval of a normal variable, in standard deviations
SPREAD = 12.0  # standard deviation of an example's score, in points, where scores are not 0 or 100


@dataclass(frozen=True)
class Finding:
    """Something that a forecast cannot know around: its name, what is so, and what to do."""

    name: str
    text: str
    do: str


@dataclass(frozen=True)
class Answer:
    """`decided`: three signals in words, the strongest first. `changes`: what would change the answer."""

    choice: Choice
    why: str
    findings: tuple[Finding, ...]
    decided: tuple[str, ...]
    changes: tuple[str, ...]


def is_decided(gain: Mixture, effect: float) -> bool:
    """Whether the 80 % interval leaves out no gain, or a gain worth having."""
    low, high = gain.interval()
    return low > 0 or high < effect


def decide(known: Situation, score: Prediction, loss: Prediction, findings: Sequence[Finding], effect: float) -> Answer:
    """The answer from what is known, the predicted gains and the findings."""
    gain, names = score.gain, {finding.name for finding in findings}
    low, high = gain.interval()
    scale, lead, more = score_scale(known), teacher_lead(known), doubling(known)
    choice: Choice = "cannot be told"
    why = f"the gain of distilling is between {plus(low)} and {plus(high)} points, which leaves both open"
    if blocking := [f for f in findings if f.name in ("another_tokenizer", "few_dev_rows", "at_chance")]:
        why = blocking[0].text
    elif low > 0:
        choice, why = "distil", f"distilling gains {plus(low)} to {plus(high)} points over as much fine-tuning"
    elif "weak_teacher" in names:
        choice, why = "take a stronger teacher", next(f.text for f in findings if f.name == "weak_teacher")
    elif "saturated" in names:
        why = next(f.text for f in findings if f.name == "saturated")
    elif more is not None and more.below(max(effect, gain.mean)) < 1 - SURE:
        choice = "get more data or synthetic rows first"
        ends = more.interval()
        why = (
            f"twice the rows gain {plus(ends[0])} to {plus(ends[1])} points by fine-tuning alone, more than the teacher"
        )
    elif high < effect:
        small = lead is not None and lead < SMALL_LEAD * scale and known.teacher != SAME and not _full(known)
        choice = "take a stronger teacher" if small else "fine-tune only"
        why = f"distilling gains at most {plus(high)} points over as much fine-tuning"
        if high < 0:
            why = f"distilling loses at least {-high:.1f} points against as much fine-tuning"
    first = "lead" if "weak_teacher" in names and choice != "distil" else ""
    return Answer(choice, why, tuple(findings), _decided(known, score, first), _changes(known, score, choice, more))


def find_problems(known: Situation, dev_rows: int, chance: float) -> list[Finding]:
    """What a forecast cannot know around, by name. `chance`: what answers score that do not read the prompt."""
    found, lead, last = [], teacher_lead(known), known.pilots[-1] if known.pilots else None
    if dev_rows < FEW_EXAMPLES:
        found.append(
            Finding(
                "few_dev_rows",
                f"{dev_rows} dev rows tell no gain that anyone would see",
                f"give at least {FEW_EXAMPLES} rows beside the training rows, better {4 * FEW_EXAMPLES}",
            )
        )
    scores = [known.signals.get("teacher_score")] if known.teacher != SAME else []
    scores += [] if last is None else [last.again, last.teacher]
    best = max((one for one in scores if one is not None), default=None)
    share = math.sqrt(chance * max(0.0, 100 - chance)) if known.metric in EXACT else SPREAD
    if best is not None and dev_rows and best < chance + 2 * share / math.sqrt(dev_rows):
        found.append(
            Finding(
                "at_chance",
                f"no model is shown to beat answers that ignore the prompt ({best:.1f}; those score {chance:.1f})",
                "take a model that can do the task, an easier task, or a metric that sees part of an answer",
            )
        )
    if lead is not None and (last is not None or known.teacher != SAME) and lead < -_chance_lead(known, dev_rows):
        found.append(
            Finding(
                "weak_teacher",
                f"the teacher scores {-lead:.1f} points less than the student",
                "take a larger teacher, or fine-tune this one on more rows first",
            )
        )
    if last is not None and last.again >= SATURATED:
        found.append(
            Finding(
                "saturated",
                f"the metric is full: fine-tuning on {last.rows:,.0f} rows scores {last.again:.1f} of 100",
                "go by the held-out loss below, or measure on harder rows",
            )
        )
    return found


def _full(known: Situation) -> bool:
    """Whether the teacher scores about as much as the metric can, so that none is much stronger."""
    own = known.pilots[-1].teacher if known.pilots else None
    return (own or known.signals.get("teacher_score") or 0.0) >= SATURATED


def _chance_lead(known: Situation, dev_rows: int) -> float:
    """How far apart two equal models may score on so many rows: the end of the 80 % interval, as if each answered rows
    of its own, which errs on the wide side."""
    score = known.pilots[-1].again if known.pilots else known.signals.get("student_score", 0.0)
    share = math.sqrt(score * max(0.0, 100 - score)) if known.metric in EXACT else SPREAD
    return Z80 * share * math.sqrt(2 / max(1, dev_rows))


def chance_score(rows: Sequence[Conversation], metric: str) -> float:
    """The best score, 0..100, of two kinds of answers that do not read the prompt: the commonest reference for every
    row, and the reference of the next row."""
    targets = [row.targets for row in rows if row.targets]
    if len(targets) < 2:
        return 0.0
    firsts = [target[0] for target in targets]
    if metric == "final_answer":
        firsts = [one if "answer is" in one.lower() else f"The answer is {one}." for one in firsts]
    common = max(dict.fromkeys(firsts), key=firsts.count)
    return max(_mean(metric, [common] * len(targets), targets), _mean(metric, [*firsts[1:], firsts[0]], targets))


def _mean(metric: str, answers: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    values = [SCORERS[metric](answer, list(target)).value for answer, target in zip(answers, targets, strict=True)]
    known = [value for value in values if value is not None]
    return 100 * sum(known) / len(known) if known else 0.0


def control_curve(known: Situation) -> Curve | None:
    """The learning curve of SFT again in points, from at least two pilots; None with fewer."""
    if len(known.pilots) < 2:
        return None
    errors = [max(0.5, pilot.gain_se) for pilot in known.pilots]
    values = [pilot.again for pilot in known.pilots]
    spread = 20.0 * score_scale(known)
    return fit_curve([p.rows for p in known.pilots], values, errors, (values[-1], spread), (0.0, spread))


def doubling(known: Situation) -> Mixture | None:
    """What twice the rows add to SFT again; None where no curve is known."""
    curve = control_curve(known)
    return None if curve is None else curve.change(known.rows, 2 * known.rows)


def _decided(known: Situation, score: Prediction, first: str) -> tuple[str, ...]:
    """The three known signals that move the forecast most, each with how far. `first`: what decides in any case."""
    texts = {name: text for name in score.parts if (text := _words(known, name)) is not None}
    order = sorted(texts, key=lambda name: (name != first, -abs(score.parts[name])))
    return tuple(f"{texts[name]} ({plus(score.parts[name])} points)" for name in order[:3])


def _words(known: Situation, feature: str) -> str | None:
    """A feature as a practitioner would say it; None where it is not known."""
    s, last = known.signals, known.pilots[-1] if known.pilots else None
    if last is not None and feature == ("pilot_made" if known.teacher == SAME else "pilot"):
        return f"On {last.rows:,.0f} rows GKD scored {plus(last.gain)} ± {last.gain_se:.1f} points against SFT again"
    if feature == "pilot_loss" and last is not None:
        word = "lower" if last.loss_gain > 0 else "higher"
        return f"On {last.rows:,.0f} rows its held-out loss was {abs(last.loss_gain):.3f} nats per token {word}"
    if feature == "lead" and (lead := teacher_lead(known)) is not None:
        when = "before training" if last is None else "after fine-tuning on the pilot's rows"
        return f"The teacher scores {abs(lead):.1f} points {'more' if lead >= 0 else 'less'} than the student {when}"
    if feature == "loss_lead" and "teacher_loss" in s and "student_loss" in s:
        return (
            f"Before training the loss on right answers is {s['teacher_loss']:.2f} nats per token for the teacher and "
            f"{s['student_loss']:.2f} for the student"
        )
    if feature == "kl_own" and "kl_own" in s:
        return f"On answers that the student writes itself the teacher is {s['kl_own']:.2f} nats per token away from it"
    if feature == "kl_rest" and s.get("kl"):
        part = 100 * s.get("kl_rest", 0.0) / s["kl"]
        return f"{part:.0f} % of what divides the two on right answers is not in the labels"
    if feature == "rows":
        return f"There are {known.rows:,.0f} rows; the fewer there are, the more a teacher adds"
    if feature == "same":
        made = known.teacher == SAME
        return "The teacher learns from the same rows" if made else "The teacher was not made of these rows"
    return None


def _changes(known: Situation, score: Prediction, choice: Choice, more: Mixture | None) -> tuple[str, ...]:
    out, lead = [], teacher_lead(known)
    if lead is not None and abs(lead) > 0.1:
        weight = score.parts["lead"] / lead
        out.append(f"A teacher that scored 10 points more would move the forecast by {plus(10 * weight)} points")
    if more is not None:
        low, high = more.interval()
        out.append(f"Twice the rows would move SFT again by {plus(low)} to {plus(high)} points (80 %)")
    if choice == "cannot be told":
        out.append(
            "A larger pilot narrows the interval: `--pilot full` with a larger `--budget`, and more dev rows"
            if known.pilots
            else "A pilot narrows the interval: --pilot short or full"
        )
    if known.teacher == SAME:
        out.append("A teacher that knows more than these rows (untouched, or taught on more) is another forecast")
    return tuple(out)


def plus(value: float) -> str:
    """ "+0.8" or "−0.3"."""
    text = signed(value, 1)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"
