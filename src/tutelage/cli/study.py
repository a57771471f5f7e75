"""`tutelage study plan | run | status`. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tutelage.cli.narrow_help import Commands
from tutelage.cli.options import AsJson, Debug
from tutelage.cli.outcome import say_at_once
from tutelage.common.progress import print_lines, print_note

if TYPE_CHECKING:
    from tutelage.study.plan import StudyPlan

study = typer.Typer(
    cls=Commands,
    help="Plan, run and watch a study: data sizes × students × methods.\n\n"
    "tutelage study plan recipes/mini/study.yaml\n\ntutelage study run recipes/mini/study.yaml\n\n"
    "tutelage study status recipes/mini/study.yaml --watch",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(help="A study file (YAML); docs/study.md has its keys.")]
RunsFolder = Annotated[
    str, typer.Option("--runs", help="Where all runs are kept, a folder or a URL (s3://…); finished ones are reused.")
]


def note_elsewhere(device: str) -> None:
    """Print a note when the runs shown were made on another kind of device than this machine's."""
    if device:
        print_note(f"no run was made on this machine's kind of device; these were made on {device}")


@study.command()
def plan(
    file: File,
    machine: Annotated[
        str, typer.Option(help="Machine that costs are for: H100, 8xH100, two hosts of it: 2x8xH100, …")
    ] = "1xH100",
    runs: RunsFolder = "runs",
    gpus_per_run: Annotated[
        int | None, typer.Option(min=1, help="Ranks per training run, one GPU each. Default: all of the machine's.")
    ] = None,
    as_json: AsJson = False,
    evaluations: Annotated[bool, typer.Option(help="List every evaluation, not only totals per task.")] = False,
    debug: Debug = False,
) -> None:
    """Show every run once, costs in memory, disk, time and money, and which runs cannot start. Asks no network.

    tutelage study plan recipes/mini/study.yaml

    tutelage study plan recipes/paper/table3.yaml --machine 8xH100
    """
    from tutelage.runs.store import open_runs
    from tutelage.study.grid import plan_study
    from tutelage.study.plan_text import plan_json, plan_lines

    folder, store = open_runs(runs)
    planned = plan_study(file, folder, partial=True, fetch=store.settle if store else None)
    note_elsewhere(planned.elsewhere)
    if as_json:
        print(json.dumps(plan_json(planned, machine, gpus_per_run), indent=1, ensure_ascii=False))
    else:
        print_lines(plan_lines(planned, machine, evaluations, gpus_per_run))


@study.command()
def run(
    file: File,
    runs: RunsFolder = "runs",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, each in its own process.")] = 1,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1.0, help="GiB that runs at the same time may need together, by the cost model.")
    ] = None,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="In processes of this machine, or as tasks of a Ray cluster.")
    ] = "local",
    gpus_per_run: Annotated[
        float | None,
        typer.Option(min=0.0, help="Ranks per training run, one GPU each; with ray also part of a GPU: 0.5."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Also do runs that failed in an earlier call.")] = False,
    debug: Debug = False,
) -> None:
    """Do all runs that are not done yet. Run it again to go on where it stopped.

    tutelage study run recipes/mini/study.yaml --jobs 2

    tutelage study run recipes/mini/study.yaml --runs s3://bucket/runs --retry
    """
    from tutelage.recipe.load import read_yaml
    from tutelage.report.forecasts import forecasts_file
    from tutelage.runs.hosts.joined import ranks_of_this_command
    from tutelage.runs.store import open_runs
    from tutelage.study.run_study import run_study
    from tutelage.study.status import status_lines, study_status

    with ranks_of_this_command(jobs, gpus_per_run, executor) as first:
        if not first:
            return
        folder, store = open_runs(runs)
        say_at_once(str(read_yaml(file).get("name")), folder)
        planned = _plan_whole(file, folder)

        def forecast() -> None:
            if planned.config.forecast is None:
                return
            if store is not None:
                store.get(forecasts_file(planned.config.name))
            kept = _forecast(planned, jobs, debug)
            if store is not None:
                store.put(kept)

        options: dict[str, Any] = {"jobs": jobs, "gpu_memory": gpu_memory, "executor": executor, "store": store}
        try:
            run_study(planned, retry=retry, gpus_per_run=gpus_per_run, first=forecast, debug=debug, **options)
        finally:
            if store is not None:
                store.settle(planned.runs)
            print_lines(status_lines(planned, study_status(planned)))


def _plan_whole(file: Path, folder: Path) -> StudyPlan:
    """The study's plan. Where something is not here, all that is missing is named: raises TutelageError."""
    from tutelage.common.errors import TutelageError
    from tutelage.runs.preflight.check import refuse_problems
    from tutelage.runs.preflight.problem import Problem
    from tutelage.study.grid import plan_study
    from tutelage.study.plan_text import problems

    try:
        return plan_study(file, folder)
    except TutelageError:
        looked = plan_study(file, folder, partial=True)  # raises the same where the study itself is wrong
        refuse_problems([*map(Problem, looked.absent), *problems(looked)])
        raise


def _forecast(planned: StudyPlan, jobs: int, debug: bool) -> Path:
    """Make the study's forecasts that are not kept yet; returns their file."""
    from tutelage.forecasting.kept import keep_forecast
    from tutelage.report.forecasts import forecasts_file
    from tutelage.runs.worker import make_runs_folder

    make_runs_folder(planned.root)
    file, config = planned.root / forecasts_file(planned.config.name), planned.config.forecast
    assert config is not None
    for number, one in enumerate(planned.distilled, 1):
        names = ("size", "student", "method", "teacher", "measured")
        cell = {name: getattr(one, name) for name in names} | {"tasks": list(one.tasks)}
        said = f"forecast {number} of {len(planned.distilled)}: {one.method}, {one.student}, {one.size or 'all'} rows"

        def say(text: str, said: str = said) -> None:
            print(f"{said}: {text}", file=sys.stderr, flush=True)

        made = keep_forecast(file, cell, one.recipe, one.folder, one.stage, config, jobs=jobs, say=say, debug=debug)
        say(f"none: {made['error']}" if "error" in made else made["answer"])
    return file


@study.command()
def status(
    file: File,
    runs: RunsFolder = "runs",
    watch: Annotated[bool, typer.Option("--watch", help="Renew the status until nothing is left to do.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what is done, what runs and for how long yet, what failed and why, and what is left.

    tutelage study status recipes/mini/study.yaml --watch

    tutelage study status recipes/mini/study.yaml --json
    """
    from tutelage.runs.store import open_runs
    from tutelage.study.grid import plan_study
    from tutelage.study.status import status_json, status_lines, study_status
    from tutelage.study.status import watch as watch_study

    folder, store = open_runs(runs)
    planned = plan_study(file, folder, partial=True, fetch=store.settle if store else None)
    note_elsewhere(planned.elsewhere)
    if watch:
        watch_study(planned, store=store)
    elif as_json:
        print(json.dumps(status_json(planned, study_status(planned)), indent=1, ensure_ascii=False))
    else:
        print_lines(status_lines(planned, study_status(planned)))
