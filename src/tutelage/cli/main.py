"""The command line. Heavy imports stay inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.cli.evaluate import evaluate
from tutelage.cli.options import AsJson, Debug, RunsFolder
from tutelage.cli.study import note_elsewhere, study

app = typer.Typer(
    help="Distil a large language model into a small one in post-training, and see whether it helped.\n\n"
    "Start with `tutelage demo`: a teacher, a cut student, SFT against GKD, and a report, on any machine. "
    "Then write a recipe for your own data (docs/recipe.md) and `tutelage run` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Jobs = Annotated[int, typer.Option(min=1, help="Runs at the same time, each in its own process.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value with dots: training.epochs=3 stages.gkd.beta=0.1")
    ] = None,
    runs: RunsFolder = Path("runs"),
    report_to: Annotated[Path | None, typer.Option("--report", help="Folder of the report.")] = None,
    jobs: Jobs = 1,
    gpus_per_run: Annotated[
        int | None, typer.Option(min=1, help="Ranks of a training stage; no two runs share a GPU then.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="This evaluate stage and what it builds on; may be repeated.")
    ] = None,
    text: Annotated[bool, typer.Option(help="Show the data's and the models' texts in the report.")] = True,
    debug: Debug = False,
) -> None:
    """Run a recipe: all its stages, then a report. Run it again to go on where it stopped."""
    from tutelage.recipe.load import load_recipe
    from tutelage.report.recipe.page import build_report
    from tutelage.runs.run_recipe import run_recipe

    config = load_recipe(recipe, overrides)
    manifest = run_recipe(config, recipe.resolve().parent, runs, jobs, debug, gpus_per_run, only or ())
    page = build_report(manifest, report_to or runs / f"{config.name}-report", include_text=text)
    _show(page.parent / "table.md")
    print(f"\nReport: {page}")


@app.command()
def report(
    manifest: Annotated[
        Path,
        typer.Argument(help="What `tutelage run` wrote: runs/<recipe>.json; or a study file (YAML)."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    text: Annotated[bool, typer.Option(help="Show the data's and the models' texts.")] = True,
    runs: Annotated[str, typer.Option("--runs", help="Of a study: where its results are, a folder or a URL.")] = "runs",
    debug: Debug = False,
) -> None:
    """Build the report of a recipe again, or of a study as far as it is done: one HTML page, tables, figures."""
    if manifest.suffix in (".yaml", ".yml"):
        _report_study(manifest, runs, out, text)
        return
    from tutelage.common.errors import TutelageError
    from tutelage.report.recipe.page import build_report

    if not manifest.is_file():
        raise TutelageError(f"{manifest} does not exist: give the JSON file that `tutelage run` wrote into its folder")
    try:
        content = json.loads(manifest.read_text())
    except json.JSONDecodeError as error:
        raise TutelageError(f"{manifest}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(content, dict) or not {"recipe", "root", "tasks", "rows"} <= content.keys():
        raise TutelageError(f"{manifest} is not what `tutelage run` writes: give runs/<recipe name>.json")
    beside = manifest.resolve().parent
    runs_of_rows = (run for row in content["rows"] for run in row["runs"])
    if any((beside / name).is_dir() for run in runs_of_rows for name in (run.get("evaluations") or {}).values()):
        content["root"] = str(beside)  # where they were made, unless they came from elsewhere or have been moved
    page = build_report(content, out, include_text=text)
    _show(page.parent / "table.md")
    print(f"\nReport: {page}")


def _report_study(file: Path, place: str, out: Path, text: bool) -> None:
    """The study's cells are looked for in `place`; what is not there is shown as missing."""
    from tutelage.report.study.losses import training_logs
    from tutelage.report.study.page import write_study_report
    from tutelage.runs.store import open_runs
    from tutelage.study.grid import plan_study
    from tutelage.study.plan import cells

    runs, store = open_runs(place)
    planned = plan_study(file, runs, partial=True, fetch=store.settle if store else None)
    note_elsewhere(planned.elsewhere)
    for notice in planned.absent:
        print(f"note: what uses these data cannot be found without them: {notice}", file=sys.stderr)
    logs = training_logs((run.folder, [parent.folder for parent in run.parents]) for _, run in planned.points)
    report = write_study_report(planned.config.name, cells(planned, runs), out, text, logs)
    print(f"{report.missing} of {len(planned.points)} cells are missing\n\nReport: {report.page}")


app.command()(evaluate)


@app.command()
def demo(
    runs: RunsFolder = Path("runs/demo"),
    debug: Debug = False,
) -> None:
    """The whole job on a small task of the project's own: teacher SFT, student SFT, GKD, scores, report."""
    from importlib.resources import as_file, files

    from tutelage.cli.demo.data import write_demo_data
    from tutelage.recipe.load import load_recipe
    from tutelage.report.recipe.page import build_report
    from tutelage.runs.run_recipe import run_recipe

    write_demo_data(runs / "data", train=240, test=160, heal=800)
    with as_file(files("tutelage.cli.demo") / "recipe.yaml") as path:
        config = load_recipe(path)
    manifest = run_recipe(config, runs, runs, debug=debug)
    page = build_report(manifest, runs / "report")
    _show(page.parent / "table.md")
    print(f"\nReport: {page}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A folder that `tutelage evaluate` wrote, or an evaluation of a run.")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same examples.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say by how much two evaluations differ, a − b: 95 % interval and p by paired bootstrap on the same examples."""
    from tutelage.evaluation.compare import compare_folders as compared
    from tutelage.evaluation.compare import table

    found = compared(a, b)
    print(json.dumps(found.as_json(), indent=2, ensure_ascii=False) if as_json else table(found))


app.add_typer(study, name="study")


setup = typer.Typer(help="Set up what runs in an environment of its own.", no_args_is_help=True)


app.add_typer(setup, name="setup")


@setup.command()
def comet(
    python: Annotated[str | None, typer.Option(help="The interpreter to use, 3.12 at most; default: this one.")] = None,
    model: Annotated[str | None, typer.Option(help="Also fetch this model, such as Unbabel/wmt22-comet-da.")] = None,
    debug: Debug = False,
) -> None:
    """Make the environment that COMET runs in: some minutes, some gigabytes, once."""
    from tutelage.evaluation.judges.comet import setup_comet

    print(f"COMET is ready in {setup_comet(python, model, say=print)}")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors (save it and point your YAML plugin at it)."""
    from tutelage.recipe.recipe import RecipeConfig

    print(json.dumps(RecipeConfig.model_json_schema(), indent=2))


def _show(table: Path) -> None:
    print()
    print(table.read_text().strip())


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake is one line on standard error and exit code 1; `--debug` shows tracebacks."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments, standalone_mode=False)
        if code == 130:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from the last checkpoint", 130)
    except Exception as error:
        code = _known(error)
        if code is None or "--debug" in arguments:
            raise
        usage = getattr(error, "format_message", str)
        _fail(str(error) if usage is str else f"{usage()} (tutelage --help)" if usage() else "", code)


def _known(error: Exception) -> int | None:
    """The exit code of an error that the user can mend, else None."""
    module: Any = sys.modules.get("tutelage.common.errors")
    if module is not None and isinstance(error, module.TutelageError):
        return 1
    # Usage errors are click's, known by what they have: newer typers carry a click of their own.
    return int(getattr(error, "exit_code", 2)) if hasattr(error, "format_message") else None


def _fail(message: str, code: int) -> None:
    if message and code:
        print(f"tutelage: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
