"""Forecasts that are kept beside a study's runs, to be held against what came out (`report/forecasts.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.hashing import fingerprint
from tutelage.forecasting.forecast import make_forecast
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import DistillStage, EvaluateStage
from tutelage.recipe.study import ForecastConfig


def keep_forecast(
    file: Path,
    cell: dict[str, Any],
    recipe: RecipeConfig,
    folder: Path,
    stage: str,
    config: ForecastConfig,
    *,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    debug: bool = False,
) -> dict[str, Any]:
    """Forecast the model of `stage`, and write the forecast, or why there is none, into the list in `file`; return it.

    `cell`: what names it there (size, student, method, teacher), the tasks of `recipe` that it is measured on, of which
    the first is forecast, and whether it is `measured` already. `folder`: where the recipe's relative paths start. Runs
    go to the folder of `file`. A forecast that is kept there already is not made again, since the situations known
    meanwhile would change it; one that could not be made is tried again.
    """
    kept = _read(file)
    key = fingerprint(recipe, stage, config, cell["tasks"])
    found = next((one for one in kept if one.get("key") == key and "error" not in one), None)
    if found is not None:
        return found
    names = ("size", "student", "method", "teacher")
    made = {"key": key} | cell
    try:
        forecast = make_forecast(
            _evaluated(recipe, stage, cell["tasks"]),
            folder,
            file.parent,
            pilot=config.pilot,
            budget=config.budget,
            effect=config.effect,
            stage=stage,
            jobs=jobs,
            say=say,
            debug=debug,
        ).as_json()
        wanted = ("answer", "why", "metric", "gain", "loss_gain", "prices", "stopped", "informed_by")
        made |= {name: forecast[name] for name in wanted} | {
            "pilots": [one["rows"] for one in forecast["known"]["pilots"]]
        }
    except TutelageError as error:
        made["error"] = str(error)
    others = [one for one in kept if any(one.get(name) != cell[name] for name in names)]
    write_atomically(file, json.dumps([*others, made], indent=1, ensure_ascii=False) + "\n")
    return made


def _evaluated(recipe: RecipeConfig, stage: str, tasks: list[str]) -> RecipeConfig:
    """The recipe with an evaluation of `stage` on the first of `tasks`: the templates of studies have none."""
    if not any(one.name == stage and isinstance(one, DistillStage) for one in recipe.stages):
        raise TutelageError(f"`{stage}` is no `distill` stage, and a forecast is about GKD against SFT again")
    if not tasks:
        raise TutelageError("none of its tasks is the template's own, so there are no rows to try it on")
    measured = EvaluateStage(name="forecast_scores", kind="evaluate", models=[stage], tasks=tasks[:1])
    return recipe.model_copy(update={"stages": [*recipe.stages, measured]})


def _read(file: Path) -> list[dict[str, Any]]:
    """The forecasts in `file`; none where it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
