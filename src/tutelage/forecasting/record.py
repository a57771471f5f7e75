"""A finished recipe as a situation: what later forecasts in the same runs folder learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.forecasting.arms import find_arms
from tutelage.forecasting.situations import SAME, Pilot, Situation, record_situation
from tutelage.recipe.recipe import RecipeConfig
from tutelage.report.comparisons import compare
from tutelage.report.recipe.tables import build_tables

if TYPE_CHECKING:
    from tutelage.runs.recipe_results import RecipeResults


def remember(recipe: RecipeConfig, folder: Path, results: RecipeResults, runs: Path) -> Path | None:
    """Write the outcome of a recipe into the folder `runs` if it has both arms, the fair opponent among its stages, and
    all their scores; return the file's path, else None. `folder`: where relative data paths start.

    What a forecast of the same recipe had seen beforehand is kept with it.
    """
    try:
        arms = find_arms(recipe, folder)
    except TutelageError:
        return None
    for table in build_tables(results):
        rows = {row.stage: row for row in table.rows if row.values and not row.missing}
        if arms.gkd not in rows or arms.again not in rows:
            continue
        gkd, again = (rows[name].value(table.headline) for name in (arms.gkd, arms.again))
        if gkd is None or again is None:
            continue
        found = compare(gkd, again)
        if found is None or found.examples < 2:
            continue
        key = fingerprint(recipe)
        seen = _forecast(runs / f"{recipe.name}-forecast" / "forecast.json", key)
        situation = Situation(
            name=f"{recipe.name}-{key}",
            source=f"recipe {key}",
            task=recipe.name,
            metric=table.headline,
            teacher=SAME if arms.same_data else "given",
            student=arms.start,
            rows=float(arms.rows),
            gain=found.difference,
            gain_se=found.stderr,
            again=again.value,
            signals=seen[0],
            pilots=seen[1],
        )
        return record_situation(situation, runs)
    return None


def _forecast(file: Path, key: str) -> tuple[dict[str, float], tuple[Pilot, ...]]:
    """Signals and pilots of the forecast in `file`, if it was of the recipe with this fingerprint and can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["fingerprint"] == key:
            known = content["known"]
            return dict(known["signals"]), tuple(Pilot(**pilot) for pilot in known["pilots"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}, ()
