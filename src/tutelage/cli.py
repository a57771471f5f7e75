"""The command line. Heavy imports stay inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Distil a large language model into a small one in post-training, and see whether it helped.\n\n"
    "Start with `tutelage demo`: a teacher, a cut student, SFT against GKD, and a report, on any machine. "
    "Then write a recipe for your own data (docs/recipe.md) and `tutelage run` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunsFolder = Annotated[Path, typer.Option("--runs", help="Where results are kept; finished stages there are reused.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at the same time, each in its own process.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value with dots: training.epochs=3 stages.gkd.beta=0.1")
    ] = None,
    runs: RunsFolder = Path("runs"),
    report_to: Annotated[Path | None, typer.Option("--report", help="Folder of the report.")] = None,
    jobs: Jobs = 1,
    text: Annotated[bool, typer.Option(help="Show the data's and the models' texts in the report.")] = True,
    debug: Debug = False,
) -> None:
    """Run a recipe: all its stages, then a report. Run it again to go on where it stopped."""
    from tutelage.recipe import load_recipe
    from tutelage.report import build_report
    from tutelage.runner import run_recipe

    config = load_recipe(recipe, overrides)
    manifest = run_recipe(config, recipe.resolve().parent, runs, jobs, debug)
    page = build_report(manifest, report_to or runs / f"{config.name}-report", include_text=text)
    _show(page.parent / "table.md")
    print(f"\nReport: {page}")


@app.command()
def report(
    manifest: Annotated[Path, typer.Argument(help="The JSON file that `tutelage run` wrote: runs/<recipe>.json")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    text: Annotated[bool, typer.Option(help="Show the data's and the models' texts.")] = True,
    debug: Debug = False,
) -> None:
    """Build the report of a finished recipe again: one HTML page, tables, figures."""
    from tutelage.report import build_report
    from tutelage.types import TutelageError

    if not manifest.is_file():
        raise TutelageError(f"{manifest} does not exist: give the JSON file that `tutelage run` wrote into its folder")
    try:
        content = json.loads(manifest.read_text())
    except json.JSONDecodeError as error:
        raise TutelageError(f"{manifest}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(content, dict) or not {"recipe", "root", "tasks", "rows"} <= content.keys():
        raise TutelageError(f"{manifest} is not what `tutelage run` writes: give runs/<recipe name>.json")
    page = build_report(content, out, include_text=text)
    _show(page.parent / "table.md")
    print(f"\nReport: {page}")


@app.command()
def evaluate(
    recipe: Annotated[Path, typer.Argument(help="A recipe file whose `tasks` section has the task.")],
    model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or package:NAME.")],
    task: Annotated[list[str], typer.Option(help="A task of the recipe; may be repeated.")],
    runs: RunsFolder = Path("runs"),
    debug: Debug = False,
) -> None:
    """Answer a recipe's tasks with any model, and print the scores with standard errors."""
    from tutelage.config import EvaluateStage, ModelConfig
    from tutelage.recipe import Planner, load_recipe
    from tutelage.runner import attempt
    from tutelage.types import TutelageError

    config = load_recipe(recipe)
    for name in task:
        if name not in config.tasks:
            raise TutelageError(f"{recipe}: no task is called `{name}` (there are: {', '.join(config.tasks)})")
    stage = EvaluateStage(name="only", kind="evaluate", models=["teacher"], tasks=task)
    config = config.model_copy(update={"teacher": ModelConfig(path=model), "stages": [stage]})
    planner = Planner(config, recipe.resolve().parent, runs)
    for name in task:
        planned = planner.evaluation("teacher", name, config.seeds[0])
        error = None if planned.done else attempt(planned, debug)
        if error:
            raise TutelageError(error)
        result = json.loads((planned.folder / "result.json").read_text())
        for metric, score in result["metrics"].items():
            value, error = ("unknown" if score[k] is None else f"{score[k]:.2f}" for k in ("value", "stderr"))
            print(f"{name} {metric}: {value} ± {error} (n = {result['n']})")
        print(f"examples: {planned.folder / 'examples.jsonl'}")


@app.command()
def demo(
    runs: RunsFolder = Path("runs/demo"),
    debug: Debug = False,
) -> None:
    """The whole job on a small task of the project's own: teacher SFT, student SFT, GKD, scores, report."""
    from importlib.resources import as_file, files

    from tutelage.demo import write_demo_data
    from tutelage.recipe import load_recipe
    from tutelage.report import build_report
    from tutelage.runner import run_recipe

    write_demo_data(runs / "data", train=240, test=160, heal=800)
    with as_file(files("tutelage") / "recipes" / "demo.yaml") as path:
        config = load_recipe(path)
    manifest = run_recipe(config, runs, runs, debug=debug)
    page = build_report(manifest, runs / "report")
    _show(page.parent / "table.md")
    print(f"\nReport: {page}")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors (save it and point your YAML plugin at it)."""
    from tutelage.config import RecipeConfig

    print(json.dumps(RecipeConfig.model_json_schema(), indent=2))


def _show(table: Path) -> None:
    print()
    print(table.read_text().strip())


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake is one line on standard error and exit code 1; `--debug` shows tracebacks."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, standalone_mode=False)
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
    module: Any = sys.modules.get("tutelage.types")
    if module is not None and isinstance(error, module.TutelageError):
        return 1
    # Usage errors are click's, known by what they have: newer typers carry a click of their own.
    return int(getattr(error, "exit_code", 2)) if hasattr(error, "format_message") else None


def _fail(message: str, code: int) -> None:
    if message and code:
        print(f"tutelage: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
