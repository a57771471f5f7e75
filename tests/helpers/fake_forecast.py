"""Forecasts made by code, for tests of answers and pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tutelage.forecasting.answer import EFFECT, decide, find_problems
from tutelage.forecasting.arms import Arms
from tutelage.forecasting.forecast import OWN_PRICE, Forecast, band_of
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.price import Price
from tutelage.forecasting.prior import Prediction, predict
from tutelage.forecasting.situations import Pilot, Situation, shipped_situations

PILOTS = tuple(
    Pilot(rows, gain, 0.8, 0.04, 0.005, again, again + 7.0)
    for rows, gain, again in ((62.0, 3.4, 20.0), (125.0, 3.0, 21.0), (250.0, 3.2, 21.5))
)
SIGNALS = {"teacher_score": 16.5, "student_score": 9.7, "teacher_loss": 2.1, "student_loss": 2.9, "kl": 0.9,
           "kl_label": 0.5, "kl_rest": 0.4, "kl_own": 1.1, "teacher_entropy": 1.4, "teacher_ece": 0.04,
           "lead_ends": 0.1, "tokens_per_weight": 0.0006}  # fmt: skip
KNOWN = Situation("summaries", "", "summaries", "rouge_l", "same", "general", 1000.0, signals=SIGNALS, pilots=PILOTS)
GIVEN = replace(
    KNOWN,
    teacher="given",
    signals=SIGNALS | {"teacher_score": 31.0},
    pilots=tuple(replace(p, teacher=None) for p in PILOTS),
)


def certain(mean: float, sd: float = 0.3) -> Prediction:
    """A prediction that is one normal distribution."""
    parts = {"always": 0.0, "pilot": 0.8 * mean, "lead": 0.3, "rows": -0.1, "same": -0.1}
    return Prediction(Mixture((1.0,), (mean,), (sd,)), parts, 9, 0)


def fake_forecast(known: Situation = KNOWN, dev: int = 128, chance: float = 12.0, **changes: Any) -> Forecast:
    """A forecast of `known` from the situations that ship with the project."""
    others = shipped_situations()
    score, loss = predict(known, others), predict(known, others, "loss")
    recipe: Any = None
    where, settings = f"the first {dev} rows of `dev`", {"gkd": {"learning_rate": 3e-4, "epochs": 10}}
    same = known.teacher == "same"
    arms = Arms(recipe, "sft", "sft_again", "gkd", "teacher_sft", same, ("train",), 1000, dev, where, settings)
    findings = find_problems(known, dev, chance)
    prices = {
        OWN_PRICE: Price(0.05, 0.12, 75.0),
        "SFT, then SFT again": Price(0.4, 1.0, 900.0),
        "SFT, then GKD": Price(1.2, 3.0, 2900.0),
    }
    answer = decide(known, score, loss, findings, EFFECT)
    forecast = Forecast("summaries", "f", arms, known, score, loss, answer, EFFECT, chance, prices, (0.14, 0.12),
                        "the interval decides", band_of(known, others), Price(1.5, 3.8, 3500.0))  # fmt: skip
    return replace(forecast, **changes)
