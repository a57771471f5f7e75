"""`tutelage report`: the page of a recipe or a study. Heavy imports stay inside functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.options import Debug, Only, Overrides, Text, no_url
from tutelage.cli.outcome import report_folder, say_notes, show
from tutelage.cli.study import note_elsewhere

if TYPE_CHECKING:
    from tutelage.recipe.recipe import RecipeConfig


def report(
    file: Annotated[Path, typer.Argument(help="A recipe file or a study file (YAML).")],
    overrides: Overrides = None,
    runs: Annotated[str, typer.Option("--runs", help="Folder of all runs; of a study also a URL (s3://…).")] = "runs",
    report_to: Annotated[
        Path | None, typer.Option("--out", "--report", help="Folder of the report; default: RUNS/<name>-report.")
    ] = None,
    only: Only = None,
    text: Text = True,
    debug: Debug = False,
) -> None:
    """Build the report of a recipe or a study from its runs, as far as they are done. Runs and changes nothing.

    tutelage report recipe.yaml --runs runs

    tutelage report recipes/mini/study.yaml --runs s3://bucket/runs --no-text
    """
    from tutelage.common.errors import TutelageError
    from tutelage.recipe.load import load_recipe, read_yaml
    from tutelage.recipe.owner import claim, make_way, refuse_unfinished

    if file.suffix == ".json":
        raise TutelageError(f"{file} is no recipe or study: give the YAML file, and the folder of its runs by --runs")
    content = read_yaml(file)
    config = load_recipe(file, overrides) if "stages" in content else None
    called = str(config.name if config else content.get("name"))
    out = report_to or report_folder(called, runs)
    notes = make_way(out, file, called, "report", "--out", overrides or (), given=report_to is not None)

    def before(missing: int) -> None:
        if report_to is None:
            refuse_unfinished(out, missing, "--out")
        say_notes(notes)

    if config is not None:
        missing = _report_recipe(config, file, runs, out, only or [], text, overrides or (), before)
    elif overrides or only:
        raise TutelageError(f"{file} is a study: `{[*(overrides or []), '--only'][0]}` works for recipes only")
    else:
        missing = _report_study(file, runs, out, text, before)
    claim(out, file, called, overrides or (), missing)


def _report_recipe(
    config: RecipeConfig,
    file: Path,
    place: str,
    out: Path,
    only: Sequence[str],
    text: bool,
    overrides: Sequence[str],
    before: Callable[[int], None],
) -> int:
    """Report the recipe's runs in the folder `place`; returns how many are missing, with which `before` is
    called before anything is written."""
    from tutelage.common.errors import TutelageError
    from tutelage.report.recipe.page import build_report
    from tutelage.runs.recipe_results import recipe_results

    runs = no_url(Path(place))
    results = replace(recipe_results(config, file.resolve().parent, runs, only), overrides=tuple(overrides))
    if not runs.is_dir():
        raise TutelageError(f"there is no folder {runs}: give the folder of the recipe's runs by --runs")
    missing = results.planned - results.done
    before(missing)
    note_elsewhere(results.elsewhere)
    show(build_report(results, out, include_text=text), results)
    return missing


def _report_study(file: Path, place: str, out: Path, text: bool, before: Callable[[int], None]) -> int:
    """Report the study's cells in `place`, a folder or URL; returns how many are missing, as `_report_recipe` does."""
    from tutelage.report.forecasts import forecasts_file
    from tutelage.report.scores import is_evaluated
    from tutelage.report.study.losses import training_logs
    from tutelage.report.study.page import write_study_report
    from tutelage.runs.stages.earlier import reading_note
    from tutelage.runs.store import open_runs
    from tutelage.study.grid import plan_study
    from tutelage.study.plan import cells

    runs, store = open_runs(place)
    planned = plan_study(file, runs, partial=True, fetch=store.settle if store else None)
    found = cells(planned, runs)
    before(sum(not is_evaluated(cell.folder) for cell in found))
    note_elsewhere(planned.elsewhere)
    say_notes(f"what uses these data cannot be found without them: {notice}" for notice in planned.absent)
    say_notes(reading_note(planned.runs))
    logs = training_logs((run.folder, [parent.folder for parent in run.parents]) for _, run in planned.points)
    name, kept = planned.config.name, None
    if planned.config.forecast is not None:
        kept = planned.root / forecasts_file(name)
        if store is not None:
            store.get(kept.name)
    report = write_study_report(name, found, out, text, logs, kept)
    print(f"{report.missing} of {len(planned.points)} cells are missing\n\nReport: {report.page}")
    return report.missing
