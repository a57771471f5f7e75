"""The command line. Heavy imports stay inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import tutelage
from tutelage.cli.data import data
from tutelage.cli.doctor import doctor
from tutelage.cli.evaluate import evaluate
from tutelage.cli.forecast import forecast
from tutelage.cli.init import init
from tutelage.cli.misspelt import no_option
from tutelage.cli.model import chat, export, serve_teacher
from tutelage.cli.narrow_help import COLUMNS, SETTINGS, WIDE, Commands
from tutelage.cli.options import (
    AsJson,
    Debug,
    JudgeDecision,
    JudgeMaxTokens,
    JudgeModel,
    JudgeRequests,
    JudgeRules,
    JudgeUrl,
    Only,
    Overrides,
    RunsFolder,
    Text,
    judge_from,
)
from tutelage.cli.outcome import deliver, report_folder, say_at_once, say_notes, show
from tutelage.cli.report import report
from tutelage.cli.study import study
from tutelage.cli.watch import page_of, watch
from tutelage.common.interrupt import Interrupted, sigterm_as_ctrl_c, stop_code
from tutelage.common.progress import columns_of, print_anything, print_lines
from tutelage.common.threads import wait_briefly

app = typer.Typer(
    cls=Commands,
    context_settings=SETTINGS,
    help="Distil a large language model into a small one in post-training, and see whether it helped.\n\n"
    "Start with `tutelage demo`: a teacher, a pruned student, SFT against GKD, and a report, on any machine. "
    "Then `tutelage init` writes a recipe for your own data, and `tutelage run` does it.\n\n"
    "tutelage demo\n\ntutelage init train.csv\n\ntutelage run train.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich" if COLUMNS >= WIDE else None,
    pretty_exceptions_enable=False,
)

Jobs = Annotated[int, typer.Option(min=1, help="Runs at the same time, each in its own process.")]
_GO_ON = ("run", "demo", "study", "evaluate", "forecast", "rescore")  # commands that keep what they have done


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tutelage {tutelage.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    overrides: Overrides = None,
    runs: RunsFolder = Path("runs"),
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Folder of the report; default: RUNS/<name>-report.")
    ] = None,
    jobs: Jobs = 1,
    gpus_per_run: Annotated[
        int | None, typer.Option(min=1, help="Ranks of a training run, one GPU each; no two runs share a GPU then.")
    ] = None,
    only: Only = None,
    text: Text = True,
    web: Annotated[bool, typer.Option("--web", help="Show a local page with curves meanwhile.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, for how long and what would stop it, and run nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: all its stages, then a report. The same command continues where it stopped.

    tutelage run recipe.yaml

    tutelage run recipe.yaml training.epochs=3 --runs runs --jobs 2

    tutelage run recipe.yaml --plan
    """
    from tutelage.common.files import refuse_unwritable
    from tutelage.recipe.load import load_recipe
    from tutelage.recipe.owner import claim, make_way

    if plan:
        from tutelage.api.running import plan as plan_of
        from tutelage.common.errors import TutelageError

        if only:
            raise TutelageError("--plan is of the whole recipe: leave --only out")
        print(plan_of(recipe, overrides or (), runs=runs))
        return
    config = load_recipe(recipe, overrides)
    say_at_once(config.name, runs)
    from tutelage.forecasting.record import remember
    from tutelage.report.recipe.page import build_report
    from tutelage.runs.hosts.joined import ranks_of_this_command
    from tutelage.runs.run_recipe import run_recipe

    with ranks_of_this_command(jobs, gpus_per_run) as first, page_of(runs) if web and first else nullcontext():
        if not first:
            return
        out = report_to or report_folder(config.name, runs)
        given, beside = report_to is not None, f" and models/{config.name}-…"
        if not given:  # else --report would be named, which is no cure
            refuse_unwritable(runs, "--runs")
        say_notes(make_way(out, recipe, config.name, "report", "--report", overrides or (), given=given, beside=beside))
        results = run_recipe(
            config, recipe.resolve().parent, runs, jobs, debug, gpus_per_run, only or (), text, overrides or ()
        )
    results = replace(results, overrides=tuple(overrides or ()))
    folders = deliver(results, runs, ["run", str(recipe), *(overrides or [])], recipe)
    page = build_report(results, out, include_text=text)
    claim(out, recipe, config.name, overrides or (), results.planned - results.done)
    remember(config, recipe.resolve().parent, results, runs)
    show(page, results, folders)


app.command()(init)
app.command()(doctor)
app.command()(watch)
app.command()(report)
app.command()(forecast)
app.command()(evaluate)
app.command()(chat)
app.command()(export)
app.command()(serve_teacher)


@app.command()
def demo(
    runs: RunsFolder = Path("runs/demo"),
    debug: Debug = False,
) -> None:
    """Run a recipe on a small task with the project's own data: teacher SFT, student SFT, GKD, scores, report.

    It should take about 4 minutes on two CPU cores that nothing else uses.

    tutelage demo

    tutelage demo --runs /tmp/demo
    """
    from importlib.resources import as_file, files

    from tutelage.common.files import refuse_unwritable

    refuse_unwritable(runs, "--runs")
    say_at_once("demo", runs)
    from tutelage.cli.demo.data import write_demo_data
    from tutelage.forecasting.record import remember
    from tutelage.recipe.load import load_recipe
    from tutelage.report.recipe.page import build_report
    from tutelage.runs.run_recipe import run_recipe

    write_demo_data(runs / "data", train=128, test=120, heal=240)
    with as_file(files("tutelage.cli.demo") / "recipe.yaml") as path:
        config = load_recipe(path)
    results = run_recipe(config, runs, runs, debug=debug)
    folders = deliver(results, runs, ["demo"])
    page = build_report(results, runs / "report")
    remember(config, runs, results, runs)
    show(page, results, folders)


@app.command()
def compare(
    a: Annotated[
        Path, typer.Argument(help="A folder that `tutelage evaluate` wrote, or the folder of an evaluation run.")
    ],
    b: Annotated[Path, typer.Argument(help="Another such folder, with the same examples.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show by how much two evaluations differ, a − b: 95 % interval and p by paired bootstrap on the same examples.

    tutelage compare runs/gkd-on-test-s0-3f… runs/sft-on-test-s0-9a…

    tutelage compare scores/A/ifeval scores/B/ifeval --json
    """
    from tutelage.evaluation.compare import compare_folders, table

    found = compare_folders(a, b)
    if as_json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        print_lines(table(found, columns_of(sys.stdout)).splitlines())


@app.command()
def rescore(
    runs: Annotated[Path, typer.Argument(help="A folder of runs, or a folder that `tutelage evaluate --out` wrote.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data; default $TUTELAGE_DATA, else the hub.")
    ] = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_requests: JudgeRequests = 8,
    judge_max_tokens: JudgeMaxTokens = None,
    judge_rules: JudgeRules = "tutelage",
    judge_decision: JudgeDecision = None,
    debug: Debug = False,
) -> None:
    """Score kept replies to benchmarks and tasks by today's reading, and by a judge or COMET that was not there before.

    No model is loaded, and what is up to date stays as it is.

    tutelage rescore runs

    tutelage rescore scores/M --judge-url http://localhost:8000/v1 --judge-model J
    """
    from tutelage.runs.stages.earlier import rescore_runs

    judge = judge_from(judge_url, judge_model, judge_requests, judge_max_tokens, judge_rules, judge_decision)
    for line in rescore_runs(runs, data_dir, judge):
        print(line, flush=True)


app.add_typer(study, name="study")
app.add_typer(data, name="data")


setup = typer.Typer(
    cls=Commands, help="Set up tools that need a Python environment of their own.", no_args_is_help=True
)


app.add_typer(setup, name="setup")


@setup.command()
def comet(
    python: Annotated[str | None, typer.Option(help="Python interpreter, 3.12 at most; default: this one.")] = None,
    model: Annotated[str | None, typer.Option(help="Also download this model, such as Unbabel/wmt22-comet-da.")] = None,
    debug: Debug = False,
) -> None:
    """Make the environment in which COMET runs, once: it takes minutes and gigabytes.

    tutelage setup comet

    tutelage setup comet --python python3.12 --model Unbabel/wmt22-comet-da
    """
    from tutelage.evaluation.judges.comet import setup_comet

    print(f"COMET is ready in {setup_comet(python, model, say=print)}")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes: an editor's YAML plugin completes and checks keys with it.

    tutelage schema > recipe.schema.json

    tutelage schema | python -m json.tool
    """
    from tutelage.recipe.recipe import RecipeConfig

    print(json.dumps(RecipeConfig.model_json_schema(), indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments`: the words after the program's name, by default those of this process.

    A mistake of the user ends in one line on standard error and exit code 1 (2 for wrong usage, 130 for Ctrl-C, 143 for
    SIGTERM); with `--debug` a TutelageError is raised on, as all other errors always are.
    """
    words = sys.argv[1:] if arguments is None else arguments
    with sigterm_as_ctrl_c():
        _main([*words[1:], "--help"] if words[:1] == ["help"] else words)


def _main(arguments: list[str]) -> None:
    try:
        wait_briefly()
        print_anything()
        code = app(arguments, prog_name="tutelage", standalone_mode=False)
        if code:  # 130: typer turns a KeyboardInterrupt into this; else of a command that ends by typer.Exit
            raise KeyboardInterrupt if code == 130 else SystemExit(code)
    except KeyboardInterrupt:
        goes_on = any(verb in arguments[:1] for verb in _GO_ON)
        _fail("stopped" + "; the same command goes on where it stopped" * goes_on, stop_code())
    except Interrupted as stopped:
        _fail(str(stopped), stop_code())
    except Exception as error:
        if type(error).__name__ == "Abort":  # a question was answered with Ctrl-C or the end of the input
            _fail("stopped; nothing was written", stop_code())
        code, problem = _exit_code(error), _of_storage(error)
        if "--debug" not in arguments and code is None and problem is not None:
            _fail(problem, 1)
        if code is None or "--debug" in arguments:
            raise
        usage = getattr(error, "format_message", str)
        context: Any = getattr(error, "ctx", None)
        if type(error).__name__ == "NoSuchOption" and context is not None:
            usage = partial(no_option, getattr(error, "option_name", ""), context.command, arguments)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help, in a narrow terminal
            sys.stderr.write(f"{usage()}\n" if usage() else "")
            _fail("", code)
        command = getattr(context, "command_path", "tutelage")
        _fail(str(error) if usage is str else f"{usage()} ({command} --help)" if usage() else "", code)


def _exit_code(error: Exception) -> int | None:
    """The exit code for an error that the user can correct, else None."""
    module: Any = sys.modules.get("tutelage.common.errors")
    if module is not None and isinstance(error, module.TutelageError):
        return 1
    # Usage errors are click's. They are told by their method, since newer versions of typer bring a click of their own.
    return int(getattr(error, "exit_code", 2)) if hasattr(error, "format_message") else None


def _of_storage(error: Exception) -> str | None:
    """What is wrong with the disk, if that is the error."""
    module: Any = sys.modules.get("tutelage.common.files")
    return None if module is None else module.storage_problem(error)


def _fail(message: str, code: int) -> None:
    """Print one line and exit. Control characters, by which data could change the terminal, become escapes."""
    if message and code:
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(message.split()))
        print_lines([f"tutelage: {line}"], file=sys.stderr)
    raise SystemExit(code)
