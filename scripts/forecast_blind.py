"""Three recipes that took no part in the situations: forecast first, then run, then both side by side.

    python scripts/forecast_blind.py forecast WORK [JOBS [RECIPE ...]]   # docs/results/forecast_blind/<recipe>.json:
    python scripts/forecast_blind.py run WORK [JOBS [RECIPE ...]]        # commit them; then run, and add what came out

RECIPE: demo, ecqa, topics; default: all. The demo's takes minutes on a CPU, the others want a GPU. Each command writes
the table in docs/forecast.md, between its marks; what is not there yet is called so.

WORK holds blind/ and situations/ of scripts/situation_rows.py; runs go to WORK/runs, which those of the situations may
share. `run` refuses a recipe without a forecast, and one whose forecast is of another recipe.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from tutelage.cli.demo.data import write_demo_data
from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.forecasting.answer import plus
from tutelage.forecasting.forecast import OWN_PRICE, make_forecast
from tutelage.forecasting.record import remember
from tutelage.forecasting.situations import recorded_situations
from tutelage.recipe.load import load_recipe
from tutelage.recipe.recipe import RecipeConfig
from tutelage.report.labels import metric_label
from tutelage.report.numbers import signed
from tutelage.runs.run_recipe import run_recipe

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "results" / "forecast_blind"
PAGE = ROOT / "docs" / "forecast.md"
MARKS = re.compile(r"(<!-- blind -->\n).*?(<!-- end -->)", re.DOTALL)
NAMES = {"demo": "the demo", "ecqa": "ECQA", "topics": "topics of dialogues"}


def recipe_of(name: str, work: Path) -> tuple[RecipeConfig, Path]:
    """The recipe, and the folder where its paths start."""
    if name != "demo":
        file = ROOT / "recipes" / "mini" / "blind" / f"{name}.yaml"
        return load_recipe(file), file.parent
    folder = work / "demo"
    write_demo_data(folder / "data", train=128, test=120, heal=240)
    file = folder / "recipe.yaml"
    file.write_text((files("tutelage.cli.demo") / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return load_recipe(file), folder


def forecast(work: Path, jobs: int, names: Iterable[str]) -> None:
    """All forecasts that are not there yet. Refuses where a recipe has an outcome already."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names:
        recipe, folder = recipe_of(name, work)
        if (OUT / f"{name}.json").is_file():
            continue
        if any(one.source == f"recipe {fingerprint(recipe)}" for one in recorded_situations(work / "runs")):
            raise TutelageError(f"{name} was run before it was forecast: choose another WORK")
        made = make_forecast(recipe, folder, work / "runs", jobs=jobs).as_json()
        del made["band"]
        (OUT / f"{name}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run(work: Path, jobs: int, names: Iterable[str]) -> None:
    """The recipes that were forecast, and what came out."""
    for name in names:
        recipe, folder = recipe_of(name, work)
        file = OUT / f"{name}.json"
        if not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != fingerprint(recipe):
            raise TutelageError(f"{file} is no forecast of this recipe: `forecast` first, and commit it")
        kept = remember(recipe, folder, run_recipe(recipe, folder, work / "runs", jobs, texts=False), work / "runs")
        if kept is None:
            raise TutelageError(f"{name}: an arm has no score")
        found = json.loads(kept.read_text(encoding="utf-8"))
        outcome = {key: found[key] for key in ("gain", "gain_se", "again", "metric", "rows")}
        (OUT / f"{name}.outcome.json").write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


def table(out: Path) -> str:
    """Forecasts and outcomes in the folder `out` as Markdown."""
    heads = ("recipe", "rows", "forecast of GKD − SFT again", "answer", "measured", "inside", "GPU hours ¹")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, title in NAMES.items():
        made, outcome = (_read(out / f"{name}{end}") for end in (".json", ".outcome.json"))
        if made is None:
            lines.append(f"| {title} | | not made yet | | not measured yet | | |")
            continue
        gain, measured, inside = made["gain"], "not measured yet", ""
        said = f"{plus(gain['mean'])} ({signed(gain['low'], 1)} to {signed(gain['high'], 1)})"
        if outcome is not None:
            measured = f"{plus(outcome['gain'])} ± {outcome['gain_se']:.1f}"
            inside = "yes" if gain["low"] <= outcome["gain"] <= gain["high"] else "no"
        prices = sorted(made["prices"].items(), key=lambda one: one[0] == OWN_PRICE)  # its own last
        hours = [price["gpu_hours"] for _, price in prices]
        cost = "" if None in hours else "; ".join(f"{one:.3f}" for one in hours)
        cells = (title, f"{made['known']['rows']:,.0f}", f"{said} {metric_label(made['metric'])}", made["answer"],
                 measured, inside, cost)  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def main(what: str, work: Path, jobs: int = 8, *names: str) -> None:
    if unknown := set(names) - set(NAMES):
        raise TutelageError(f"no blind recipe is called {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    os.environ["TUTELAGE_DATA"] = str(work)
    (work / "runs").mkdir(parents=True, exist_ok=True)
    if what == "forecast":
        forecast(work, jobs, names or NAMES)
    elif what == "run":
        run(work, jobs, names or NAMES)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKS.sub(lambda marks: f"{marks[1]}{table(OUT)}{marks[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("forecast", "run") or not all(map(str.isdigit, sys.argv[3:4])):
        sys.exit(__doc__)
    try:
        main(sys.argv[1], Path(sys.argv[2]).resolve(), *map(int, sys.argv[3:4]), *sys.argv[4:])
    except TutelageError as error:
        sys.exit(str(error))
