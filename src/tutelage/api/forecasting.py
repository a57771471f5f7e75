"""`forecast`: before a recipe is paid for, whether distilling will help."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from tutelage.api.results import Forecast, Gain
from tutelage.api.running import Overrides, as_texts, read_recipe
from tutelage.common.errors import TutelageError

if TYPE_CHECKING:
    from tutelage.forecasting.mixture import Mixture
    from tutelage.forecasting.situations import Pilot
    from tutelage.recipe.recipe import RecipeConfig


def forecast(
    recipe: str | os.PathLike[str] | RecipeConfig,
    overrides: Overrides = (),
    *,
    pilot: Literal["none", "short", "full"] = "full",
    budget: float = 0.1,
    effect: float = 1.0,
    stage: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    folder: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
) -> Forecast:
    """Say before both arms of a recipe are paid for whether distilling will help. As `tutelage forecast` does.

    Both models answer dev rows, pilots train on small parts of the rows, and earlier results are asked; no test row is
    read. These are runs in `runs`, which `run` finds done later.

    recipe: a recipe file with an `sft` and a `distill` stage, or what `load_recipe` returns. overrides: as in
    `load_recipe`, for a file. pilot: `none`, `short` (one, on n/16 of the rows) or `full` (up to n/4, until the
    interval decides). budget: most that pilots may cost, as a share of both arms; the first is made in any case.
    effect: the gain in points that is worth having. stage: the `distill` stage; default: the first that is evaluated.
    runs: the folder of all runs. folder: where the recipe's relative paths start; default: its file's folder, for a
    loaded recipe the current one. out: the folder of the page; default: `<runs>/<name>-forecast`. jobs: runs at the
    same time, each in its own process (a script then needs `if __name__ == "__main__":`).

    Returns a `Forecast`: `choice` and `why` in words, `gain` in points and `loss_gain` in nats per token of GKD over as
    much SFT again, each with an 80 % interval, `prices`, `page`, `frame()` (docs/forecast.md).
    Raises TutelageError, one line, for a recipe without both arms, missing data or models, and a run that fails.

    Example: `print(tutelage.forecast("mine.yaml", pilot="short"))`
    """
    from tutelage.common.files import refuse_unwritable
    from tutelage.forecasting.forecast import OWN_PRICE, SHARES, make_forecast
    from tutelage.forecasting.page import informed_text, write_forecast
    from tutelage.forecasting.price import dear_text

    if pilot not in SHARES:
        raise TutelageError(f"pilot: `{pilot}` is none of {', '.join(SHARES)}")
    if budget < 0 or effect < 0:
        raise TutelageError(f"{'budget' if budget < 0 else 'effect'}: give a number of at least 0")
    config, base, _ = read_recipe(recipe, overrides, folder)
    root = Path(runs)
    place = Path(out) if out is not None else root / f"{config.name}-forecast"
    if out is None:
        refuse_unwritable(root, "`runs`")
    refuse_unwritable(place, "`out`", "" if out is not None else "the forecast")
    options: dict[str, Any] = {"pilot": pilot, "budget": budget, "effect": effect, "stage": stage, "jobs": jobs}
    found = make_forecast(config, base, root, **options, say=lambda _: None)
    known, answer = found.known, found.answer
    named = [f"{one.name.replace('_', ' ')}: {one.text}: {one.do}" for one in answer.findings]
    return Forecast(
        name=config.name,
        choice=answer.choice,
        why=answer.why,
        gain=_gain(known.rows, known.metric, found.score.gain),
        loss_gain=_gain(known.rows, "loss", found.loss.gain),
        pilots=tuple(gain for one in known.pilots for gain in _measured(one, known.metric)),
        decided=answer.decided,
        findings=(*named, *filter(None, [dear_text(found.prices[OWN_PRICE], found.both)])),
        changes=answer.changes,
        signals=dict(known.signals),
        prices={name: dict(vars(price)) for name, price in found.prices.items()},
        stopped=found.stopped,
        informed=informed_text(found),
        page=write_forecast(found, place, as_texts(overrides)),
    )


def _gain(rows: float, metric: str, gain: Mixture) -> Gain:
    return Gain("forecast", int(rows), metric, gain.mean, *gain.interval(), 1 - gain.below(0.0))


def _measured(pilot: Pilot, metric: str) -> list[Gain]:
    from tutelage.forecasting.mixture import SHARE

    pairs = [(metric, pilot.gain, pilot.gain_se), ("loss", pilot.loss_gain, pilot.loss_gain_se)]
    half = NormalDist().inv_cdf((1 + SHARE) / 2)  # of the interval, in standard errors
    return [Gain("pilot", int(pilot.rows), name, mean, mean - half * se, mean + half * se) for name, mean, se in pairs]
