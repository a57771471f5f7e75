"""What earlier situations say of a new one: a regression of the gain on what is known beforehand, with its uncertainty.

    gain / h = w · x + task + rest,   w ~ N(m, S),   task ~ N(0, ρτ²),   rest ~ N(0, (1 − ρ)τ² + se² / h²)

x are the features of FEATURES in units in which they are about 1; h = s^γ, and s is 1 for scores near 25 and grows with
them: with γ = 1 a task on which nothing scores can gain nothing, with γ = 0 all tasks gain alike. m and S say what
holds before any situation is known: that half of what a pilot shows will be there at the end, a quarter where the
teacher learns from the same rows (the pilot's has seen few of them: it is not yet the teacher of the end), that a
teacher which leads teaches. Each situation moves them; the marginal likelihood weighs the grid of τ, ρ and γ. So few
situations give a wide interval around a plain rule, and many give their own rule. A feature that is known with an
error, as a pilot's gain is, adds the variance that its weight makes of it; one that is not known counts as 0 with a
variance of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tutelage.forecasting.curves import fit_curve
from tutelage.forecasting.mixture import Mixture, mixture
from tutelage.forecasting.situations import SAME, Pilot, Situation

Target = Literal["score", "loss"]
UNIT: dict[Target, float] = {"score": 1.0, "loss": 0.1}  # points; nats per token
LEVEL = 25.0  # the score at which h is 1
SEED_SCATTER: dict[Target, float] = {"score": 0.3, "loss": 0.005}  # of a pilot's one seed, beside its rows' error


@dataclass(frozen=True)
class Feature:
    """One thing known beforehand. `score` and `loss`: mean and standard deviation of its weight's prior."""

    name: str
    score: tuple[float, float]
    loss: tuple[float, float]


FEATURES = (
    Feature("always", (0.0, 0.7), (0.0, 0.3)),
    Feature("pilot", (0.5, 0.3), (0.0, 0.1)),  # the pilot's gain in points at all rows
    Feature("pilot_made", (0.25, 0.3), (0.0, 0.1)),  # the same, where the pilot's few rows made its teacher too
    Feature("pilot_loss", (0.3, 0.4), (0.5, 0.3)),  # the pilot's gain in loss, 0.1 nats
    Feature("lead", (0.7, 0.7), (0.1, 0.2)),  # the teacher's lead over the trained student, 10 points
    Feature("loss_lead", (0.2, 0.4), (0.2, 0.3)),  # the teacher's lead in loss before training, nats
    Feature("kl_own", (0.0, 0.4), (0.0, 0.3)),  # KL(T ‖ S) on the student's own samples, nats
    Feature("kl_rest", (0.0, 0.4), (0.0, 0.3)),  # what of KL no gold label says, 0.5 nats
    Feature("rows", (-0.2, 0.3), (-0.1, 0.2)),  # log10(rows / 1000)
    Feature("same", (-0.1, 0.4), (0.0, 0.2)),  # the teacher learned from the same rows
)
SCATTER: dict[Target, float] = {"score": 1.0, "loss": 0.5}  # the prior's median of τ, in units
_SCATTERS = np.geomspace(0.15, 6.0, 12)
_SHARES = (0.0, 0.3, 0.6)  # ρ
_POWERS = (0.0, 0.5, 1.0)  # γ


@dataclass(frozen=True)
class Prediction:
    """The gain of a situation, in points or nats, and what it is made of."""

    gain: Mixture
    parts: dict[str, float]  # by feature: how much it moves the mean, in points or nats
    situations: int  # that informed it
    pilots: int  # of these, how many had pilots


@dataclass(frozen=True)
class _Row:
    values: NDArray[np.float64]  # [F], 0 where not known
    variances: NDArray[np.float64]  # [F], of the errors of the values; 1 where not known
    scale: float


def predict(known: Situation, others: Sequence[Situation], target: Target = "score") -> Prediction:
    """The gain of `known`, from its signals and pilots and from `others`, whose gains are known."""
    prior = np.array([getattr(feature, target) for feature in FEATURES])
    means, variances = prior[:, 0], prior[:, 1] ** 2
    used = [one for one in others if _outcome(one, target) is not None]
    row, rows = _row(known, target), [_row(one, target) for one in used]
    x_NF = np.stack([one.values for one in rows]) if rows else np.zeros((0, len(FEATURES)))
    errors_NF = np.stack([one.variances for one in rows]) if rows else np.zeros((0, len(FEATURES)))
    outcomes = [_outcome(one, target) or (0.0, 0.0) for one in used]
    alike = np.array([[a.task == b.task for b in used] for a in used], dtype=np.float64).reshape(len(used), len(used))
    mine = np.array([one.task == known.task for one in used], dtype=np.float64)
    logs, centres, spreads, weights, scales = [], [], [], [], []
    for power in _POWERS if target == "score" else (0.0,):
        h_N = np.array([one.scale**power for one in rows])
        y_N = np.array([gain for gain, _ in outcomes]) / (UNIT[target] * h_N)
        noise_N = (np.array([se for _, se in outcomes]) / (UNIT[target] * h_N)) ** 2
        for scatter, share in product(_SCATTERS * SCATTER[target], _SHARES):
            covariance = (x_NF * variances) @ x_NF.T + share * scatter**2 * alike
            covariance += np.diag(noise_N + errors_NF @ (means**2 + variances) + (1 - share) * scatter**2)
            off = y_N - x_NF @ means
            solved = np.linalg.solve(covariance, off) if used else off
            shared = x_NF @ (variances * row.values) + share * scatter**2 * mine
            variance = row.values @ (variances * row.values) + scatter**2 + row.variances @ (means**2 + variances)
            variance -= shared @ np.linalg.solve(covariance, shared) if used else 0.0
            log = -0.5 * (off @ solved + np.linalg.slogdet(covariance)[1]) - np.log(h_N).sum() if used else 0.0
            logs.append(log - 0.5 * (math.log(scatter / SCATTER[target]) / 0.7) ** 2)
            scales.append(UNIT[target] * row.scale**power)
            centres.append(scales[-1] * float(row.values @ means + shared @ solved))
            spreads.append(scales[-1] * math.sqrt(max(variance, 1e-12)))
            weights.append(scales[-1] * (means + variances * (x_NF.T @ solved)))
    chances = np.exp(np.array(logs) - max(logs))
    found = mixture(chances.tolist(), centres, spreads)
    weight = np.average(np.stack(weights), axis=0, weights=chances)
    parts = {f.name: float(w * v) for f, w, v in zip(FEATURES, weight, row.values, strict=True)}
    return Prediction(found, parts, len(used), sum(bool(one.pilots) for one in used))


@lru_cache(maxsize=4096)  # a forecast asks for the same earlier situations again and again
def pilot_gain(pilots: tuple[Pilot, ...], rows: float, scale: float, target: Target) -> float | None:
    """What the pilots' gains, as a curve in the number of rows, say of `rows` rows; None without pilots. The curve is
    taken to end near 0. `scale`: `score_scale` of their situation."""
    if not pilots:
        return None
    name = "gain" if target == "score" else "loss_gain"
    scale = scale if target == "score" else 1.0
    spread = 3.0 * scale if target == "score" else 0.15
    errors = [math.hypot(getattr(p, f"{name}_se"), SEED_SCATTER[target] * scale) for p in pilots]
    values = [getattr(pilot, name) for pilot in pilots]
    return fit_curve([p.rows for p in pilots], values, errors, (0.0, spread), (0.0, spread)).at(rows).mean


def score_scale(situation: Situation) -> float:
    """h: 1 where the best score that is known beforehand is 25, between 0.2 and 2."""
    scores = [situation.signals.get("teacher_score"), situation.signals.get("student_score")]
    scores += [score for pilot in situation.pilots for score in (pilot.again, pilot.teacher)]
    known = [score for score in scores if score is not None]
    return min(2.0, max(0.2, max(known) / LEVEL)) if known else 1.0


def teacher_lead(situation: Situation) -> float | None:
    """The teacher's lead in points over the student: over the pilot's SFT again where there is a pilot, else before any
    training. None where one of the two is not known."""
    signals, last = situation.signals, situation.pilots[-1] if situation.pilots else None
    student = signals.get("student_score") if last is None else last.again
    teacher = signals.get("teacher_score") if last is None or last.teacher is None else last.teacher
    return None if student is None or teacher is None else teacher - student


def _row(situation: Situation, target: Target) -> _Row:
    signals, lead = situation.signals, teacher_lead(situation)
    scale, made = score_scale(situation), situation.teacher == SAME
    score, loss = (pilot_gain(situation.pilots, situation.rows, scale, kind) for kind in ("score", "loss"))
    gain = None if score is None else score / scale
    losses = [signals.get(name) for name in ("student_loss", "teacher_loss")]
    found: dict[str, float | None] = {
        "always": 1.0,
        "pilot": 0.0 if made else gain,
        "pilot_made": gain if made else 0.0,
        "pilot_loss": None if loss is None else loss / UNIT["loss"],
        "lead": None if lead is None else max(-3.0, min(3.0, lead / (10.0 * scale))),
        "loss_lead": None if losses[0] is None or losses[1] is None else max(-2.0, min(2.0, losses[0] - losses[1])),
        "kl_own": _capped(signals.get("kl_own"), 1.0),
        "kl_rest": _capped(signals.get("kl_rest"), 0.5),
        "rows": math.log10(max(1.0, situation.rows) / 1000.0),
        "same": float(made),
    }
    values = [found[feature.name] for feature in FEATURES]
    last = situation.pilots[-1] if situation.pilots else None
    errors = dict[str, float]()
    if last is not None:
        kind = "pilot_made" if made else "pilot"
        errors = {kind: last.gain_se / scale, "pilot_loss": last.loss_gain_se / UNIT["loss"]}
    variances = [1.0 if found[f.name] is None else errors.get(f.name, 0.0) ** 2 for f in FEATURES]
    return _Row(np.array([value or 0.0 for value in values]), np.array(variances), scale)


def _capped(value: float | None, unit: float) -> float | None:
    return None if value is None else min(3.0, value / unit)


def _outcome(situation: Situation, target: Target) -> tuple[float, float] | None:
    """The measured gain and its standard error; None where it is not known."""
    score, loss = (situation.gain, situation.gain_se), (situation.loss_gain, situation.loss_gain_se)
    found = score if target == "score" else loss
    return None if found[0] is None or found[1] is None else (found[0], found[1])
