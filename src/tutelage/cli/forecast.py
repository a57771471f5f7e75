"""`tutelage forecast`. Heavy imports stay inside the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tutelage.cli.options import AsJson, Debug, RunsFolder
from tutelage.cli.outcome import say_notes
from tutelage.common.progress import print_lines


def forecast(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML) with an `sft` and a `distill` stage.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys of the recipe, as key=value with dots: training.epochs=3")
    ] = None,
    runs: RunsFolder = Path("runs"),
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the page; default: RUNS/<name>-forecast.")
    ] = None,
    pilot: Annotated[
        Literal["none", "short", "full"],
        typer.Option(help="No pilot, one on n/16 of the rows, or up to n/4, until the interval decides."),
    ] = "full",
    budget: Annotated[
        float,
        typer.Option(min=0.0, help="Most that pilots may cost, as a share of both arms; the first is made anyway."),
    ] = 0.1,
    effect: Annotated[float, typer.Option(min=0.0, help="The gain in points that is worth having.")] = 1.0,
    stage: Annotated[str | None, typer.Option(help="The distill stage. Default: the first that is evaluated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, each in its own process.")] = 1,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say beforehand whether distilling will help, by how much and at what price. Reads no test row.

    tutelage forecast recipe.yaml

    tutelage forecast recipe.yaml --pilot short --budget 0.05 --runs runs
    """
    from tutelage.common.files import refuse_unwritable
    from tutelage.forecasting.forecast import make_forecast
    from tutelage.forecasting.page import forecast_lines, write_forecast
    from tutelage.recipe.load import load_recipe
    from tutelage.recipe.owner import claim, make_way

    config = load_recipe(recipe, overrides)
    given, out = out is not None, out or runs / f"{config.name}-forecast"
    if not given:  # else --out would be named, which is no cure
        refuse_unwritable(runs, "--runs")
    say_notes(make_way(out, recipe, config.name, "forecast", "--out", overrides or (), given=given))
    found = make_forecast(
        config,
        recipe.resolve().parent,
        runs,
        pilot=pilot,
        budget=budget,
        effect=effect,
        stage=stage,
        jobs=jobs,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        debug=debug,
    )
    page = write_forecast(found, out, overrides or ())
    claim(out, recipe, config.name, overrides or ())
    if as_json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        changed = [f"Changed in the command: {', '.join(overrides)}"] if overrides else []
        print_lines(["", *forecast_lines(found), "", *changed, f"Forecast: {page}"])
