"""The command line. Heavy imports stay inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.cli_study import study

app = typer.Typer(
    help="Distil a large language model into a small one in post-training, and see whether it helped.\n\n"
    "Start with `tutelage demo`: a teacher, a cut student, SFT against GKD, and a report, on any machine. "
    "Then write a recipe for your own data (docs/recipe.md) and `tutelage run` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _no_url(place: Path) -> Path:
    """A path swallows one of the two slashes, and would then be a folder of a strange name."""
    if re.match(r"\w+:/", str(place)):
        raise typer.BadParameter("a URL is for studies (tutelage study run); here it is a folder")
    return place


RunsFolder = Annotated[
    Path,
    typer.Option("--runs", callback=_no_url, help="Where results are kept; finished stages there are reused."),
]
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
    gpus_per_run: Annotated[
        int | None, typer.Option(min=1, help="Ranks of a training stage; no two runs share a GPU then.")
    ] = None,
    text: Annotated[bool, typer.Option(help="Show the data's and the models' texts in the report.")] = True,
    debug: Debug = False,
) -> None:
    """Run a recipe: all its stages, then a report. Run it again to go on where it stopped."""
    from tutelage.recipe import load_recipe
    from tutelage.report import build_report
    from tutelage.runner import run_recipe

    config = load_recipe(recipe, overrides)
    manifest = run_recipe(config, recipe.resolve().parent, runs, jobs, debug, gpus_per_run)
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


def _report_study(file: Path, place: str, out: Path, text: bool) -> None:
    """The study's cells are looked for in `place`; what is not there is shown as missing."""
    from tutelage.store import open_runs
    from tutelage.study import cells, plan_study
    from tutelage.study_losses import training_logs
    from tutelage.study_report import write_study_report

    runs, store = open_runs(place)
    planned = plan_study(file, runs, partial=True)
    if store is not None:
        store.settle(planned.runs)
    for notice in planned.absent:
        print(f"note: what uses these data cannot be found without them: {notice}", file=sys.stderr)
    logs = training_logs((run.folder, [parent.folder for parent in run.parents]) for _, run in planned.points)
    report = write_study_report(planned.config.name, cells(planned, runs), out, text, logs)
    print(f"{report.missing} of {len(planned.points)} cells are missing\n\nReport: {report.page}")


@app.command()
def evaluate(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe file whose `tasks` section has the task.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, GGUF file or package:NAME.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task of the recipe, or a benchmark; may be repeated.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Benchmarks, with commas; `paper` is all eight.")] = None,
    responses: Annotated[
        Path | None, typer.Option(help="Score these replies (JSON Lines); no model is loaded.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of replies, scores and evidence.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Examples a benchmark, drawn evenly from its groups.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the --limit and shuffles GPQA's options.")] = 0,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts and room for replies of one call of the sampler; default: all in one."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Replies written at the same time.")] = 128,
    chat: Annotated[bool | None, typer.Option("--chat/--no-chat", help="Default: if the model has a template.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data; default $TUTELAGE_DATA, else the hub.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that judges InFoBench.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at that endpoint.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    runs: RunsFolder = Path("runs"),
    debug: Debug = False,
) -> None:
    """Measure a model on benchmarks (--tasks) or on a recipe's tasks, or score replies made elsewhere (--responses).

    tutelage evaluate --model M --tasks paper --out scores/M

    tutelage evaluate --task ifeval --responses replies.jsonl --json

    tutelage evaluate recipe.yaml --model M --task test
    """
    from tutelage.types import TutelageError

    named = [*(task or []), *([tasks] if tasks else [])]
    judge = _judge(judge_url, judge_model)
    if responses is not None:
        if recipe or model or len(named) != 1:
            raise TutelageError("--responses goes with one --task and with neither a recipe nor a --model")
        _score_file(named[0], responses, out, data_dir, limit, seed, judge, as_json)
    elif not named or model is None:
        raise TutelageError("give --model and --tasks (or a recipe and --task), or --task and --responses")
    elif recipe is not None:
        _evaluate_recipe(recipe, model, named, runs, debug)
    else:
        from tutelage.evaluate.benchmarks import chosen
        from tutelage.evaluate.run_benchmarks import Settings, lines, run_benchmarks, summary, table_lines

        settings = Settings(
            tasks=tuple(chosen(",".join(named))),
            model=model,
            out=out or runs / f"evaluate-{_file_name(model)}",
            data_dir=data_dir,
            limit=limit,
            seed=seed,
            batch_tokens=batch_tokens,
            batch_size=batch_size,
            chat=chat,
            judge=judge,
        )
        results = run_benchmarks(settings)
        text = [json.dumps(summary(settings, results), ensure_ascii=False)] if as_json else lines(results)
        print("\n".join([*text, *([] if as_json else table_lines(results))]))
        print(f"evidence: {settings.out}", file=sys.stderr if as_json else sys.stdout)


def _score_file(
    task: str,
    responses: Path,
    out: Path | None,
    data_dir: Path | None,
    limit: int | None,
    seed: int,
    judge: Any,
    as_json: bool,
) -> None:
    """Score a file of replies and print; unknown and doubled ids end the command with exit code 1 all the same."""
    from tutelage.evaluate.benchmarks import benchmark
    from tutelage.evaluate.responses import problem, score_file, write_scored
    from tutelage.evaluate.run_benchmarks import lines
    from tutelage.types import TutelageError

    scored = score_file(task, responses, data_dir, limit, seed, judge)
    if out is not None:
        write_scored(out, benchmark(task), scored)
    wrong = problem(scored.result)
    if as_json:
        print(json.dumps(scored.result, ensure_ascii=False))
        for notice in scored.result["notices"]:
            print(f"note: {notice}", file=sys.stderr)
    else:
        print("\n".join(lines([scored.result])))
    if wrong:
        raise TutelageError(f"{responses}: {wrong}; mend the file (the scores above leave those replies out)")


def _evaluate_recipe(recipe: Path, model: str, names: list[str], runs: Path, debug: bool) -> None:
    from tutelage.config import EvaluateStage, ModelConfig
    from tutelage.recipe import Planner, load_recipe
    from tutelage.runner import attempt
    from tutelage.types import TutelageError

    config = load_recipe(recipe)
    for name in names:
        if name not in config.tasks:
            raise TutelageError(f"{recipe}: no task is called `{name}` (there are: {', '.join(config.tasks)})")
    stage = EvaluateStage(name="only", kind="evaluate", models=["teacher"], tasks=names)
    config = config.model_copy(update={"teacher": ModelConfig(path=model), "stages": [stage]})
    planner = Planner(config, recipe.resolve().parent, runs)
    for name in names:
        planned = planner.evaluation("teacher", name, config.seeds[0])
        error = None if planned.done else attempt(planned, debug)
        if error:
            raise TutelageError(error)
        result = json.loads((planned.folder / "result.json").read_text())
        for metric, score in result["metrics"].items():
            value, error = ("unknown" if score[k] is None else f"{score[k]:.2f}" for k in ("value", "stderr"))
            print(f"{name} {metric}: {value} ± {error} (n = {result['n']})")
        print(f"examples: {planned.folder / 'examples.jsonl'}")


def _judge(url: str | None, model: str | None) -> Any:
    from tutelage.types import TutelageError

    if (url is None) != (model is None):
        raise TutelageError("--judge-url and --judge-model go together")
    if url is None or model is None:
        return None
    from tutelage.evaluate.judge import JudgeEndpoint

    return JudgeEndpoint(url=url, model=model)


def _file_name(model: str) -> str:
    """A model's name as a folder's."""
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in model).strip("-.") or "model"


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
def compare(
    a: Annotated[Path, typer.Argument(help="A folder that `tutelage evaluate` wrote, or an evaluation of a run.")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same examples.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Say by how much two evaluations differ, a − b: 95 % interval and p by paired bootstrap on the same examples."""
    from tutelage.evaluate.compare import compare as compared
    from tutelage.evaluate.compare import table

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
    from tutelage.evaluate.comet import setup_comet

    print(f"COMET is ready in {setup_comet(python, model, say=print)}")


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
    module: Any = sys.modules.get("tutelage.types")
    if module is not None and isinstance(error, module.TutelageError):
        return 1
    # Usage errors are click's, known by what they have: newer typers carry a click of their own.
    return int(getattr(error, "exit_code", 2)) if hasattr(error, "format_message") else None


def _fail(message: str, code: int) -> None:
    if message and code:
        print(f"tutelage: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
