"""`tutelage evaluate`: benchmarks, a recipe's tasks, or replies made elsewhere. Heavy imports stay inside functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tutelage.cli.options import (
    AsJson,
    Debug,
    JudgeDecision,
    JudgeMaxTokens,
    JudgeModel,
    JudgeRequests,
    JudgeRules,
    JudgeUrl,
    Overrides,
    Revision,
    RunsFolder,
    TensorParallel,
    TrustRemoteCode,
    judge_from,
    print_lines,
)
from tutelage.cli.outcome import say_notes
from tutelage.common.run_folder import EXAMPLES, RESULT, read_json

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint
    from tutelage.evaluation.replies import Evaluation
    from tutelage.evaluation.run_benchmarks import Settings
    from tutelage.recipe.sections import ModelConfig

TASKS_HELP = (
    "Names separated by commas; may be repeated. Benchmarks (`paper`: all eight), any task of lm-eval (lm-eval:NAME "
    "where a benchmark has its name), or, with a recipe, its tasks."
)


_HOW = ("batch_tokens", "batch_size", "max_new_tokens", "sampler", "chat")
_JUDGE = ("judge_url", "judge_model", "judge_requests", "judge_max_tokens", "judge_rules", "judge_decision")
_NOT_WITH_RECIPE = (*_HOW, *_JUDGE, "out", "limit", "seed", "data_dir", "as_json")
_LOADING = ("revision", "tokenizer", "chat_template", "thinking", "attention", "trust_remote_code", "tensor_parallel")


def evaluate(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="A recipe file whose `tasks` section has the tasks.")] = None,
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder, name in models/, GGUF file or package:NAME.")
    ] = None,
    revision: Revision = None,
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder; default: the model's own.")] = None,
    chat_template: Annotated[
        str, typer.Option(help="auto (the tokenizer's, else Tulu's), tulu, or a Jinja file.")
    ] = "auto",
    thinking: Annotated[
        bool | None,
        typer.Option("--thinking/--no-thinking", help="Default: as it was trained, else as its template does."),
    ] = None,
    attention: Annotated[
        Literal["auto", "packed", "padded"], typer.Option(help="As in a recipe's model section.")
    ] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    tensor_parallel: TensorParallel = 1,
    tasks: Annotated[list[str] | None, typer.Option("--tasks", "--task", help=TASKS_HELP)] = None,
    responses: Annotated[
        Path | None, typer.Option(help="Score these replies (JSON Lines); no model is loaded.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of replies, scores and evidence.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Examples per benchmark, drawn evenly from its groups.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the --limit and shuffles GPQA's options.")] = 0,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per call of the sampler, prompts and new ones; default: all in one call."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Replies written at the same time.")] = 128,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per reply; default: the benchmark's own limit.")
    ] = None,
    sampler: Annotated[
        Literal["engine", "vllm"], typer.Option(help="vllm: on a GPU, where vLLM is installed.")
    ] = "engine",
    chat: Annotated[bool | None, typer.Option("--chat/--no-chat", help="Default: if the model has a template.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data; default $TUTELAGE_DATA, else the hub.")
    ] = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_requests: JudgeRequests = 8,
    judge_max_tokens: JudgeMaxTokens = None,
    judge_rules: JudgeRules = "tutelage",
    judge_decision: JudgeDecision = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
    debug: Debug = False,
) -> None:
    """Measure a model on benchmarks or on a recipe's tasks, or score replies made elsewhere (--responses).

    tutelage evaluate --model M --tasks paper --out scores/M

    tutelage evaluate --model M --tasks ifeval,gsm8k,hellaswag

    tutelage evaluate --tasks ifeval --responses replies.jsonl --json

    tutelage evaluate recipe.yaml --model M --tasks test

    tutelage evaluate recipe.yaml data.test.path=other.csv data.test.size=null --model M --tasks test
    """
    from tutelage.common.errors import TutelageError
    from tutelage.evaluation.benchmarks import resolve_names
    from tutelage.evaluation.run_benchmarks import Settings
    from tutelage.recipe.sections import ModelConfig

    names = task_names(tasks or ())
    judge = judge_from(judge_url, judge_model, judge_requests, judge_max_tokens, judge_rules, judge_decision)
    if responses is not None:
        if recipe or model or len(names) != 1:
            raise TutelageError("--responses needs one name in --tasks, and neither a recipe nor a --model")
        _refuse_given(context, (*_HOW, *_LOADING, "runs"), "with --responses, where no model answers")
        _score_replies(names[0], responses, out, data_dir, limit, seed, judge, as_json)
        return
    if tasks is None or model is None:
        raise TutelageError(
            "give --model and --tasks (for a recipe's tasks, the recipe too), or --tasks and --responses"
        )
    from tutelage.delivery.find_model import find_loadable, thinking_of  # imports torch, which scoring does not need

    if recipe is not None:
        _refuse_given(context, _NOT_WITH_RECIPE, "with a recipe, whose tasks say what is asked; --runs says where")
    found = find_loadable(model, revision)
    loading = ModelConfig(
        path=found.path,
        revision=revision,
        tokenizer=tokenizer,
        chat_template=chat_template,
        thinking=thinking_of(found) if thinking is None else thinking,
        attention=attention,
        trust_remote_code=trust_remote_code,
        tensor_parallel=tensor_parallel,
    )
    if recipe is not None:
        _evaluate_recipe(recipe, overrides or (), loading, found.name, names, runs, debug)
    else:
        settings = Settings(
            tasks=tuple(resolve_names(names)),
            model=model,
            out=out or runs / _default_folder(model),
            data_dir=data_dir,
            limit=limit,
            seed=seed,
            batch_tokens=batch_tokens,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            sampler=sampler,
            chat=chat,
            judge=judge,
            loading=loading,
        )
        _run_benchmarks(settings, as_json)


def _refuse_given(context: typer.Context, names: Sequence[str], where: str) -> None:
    """Raise TutelageError for an option of `names` that was given and that nothing would read."""
    from tutelage.common.errors import TutelageError

    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name == "COMMANDLINE":
            raise TutelageError(f"{option.opts[0]} has no effect {where}: leave it out")


def task_names(options: Sequence[str]) -> list[str]:
    """The names of all `--tasks` options, each of which may hold several, separated by commas."""
    return [name.strip() for option in options for name in option.split(",") if name.strip()]


def _run_benchmarks(settings: Settings, as_json: bool) -> None:
    from tutelage.evaluation.run_benchmarks import lines, run_benchmarks, summary, table_lines

    results = run_benchmarks(settings)
    if as_json:
        print(json.dumps(summary(settings, results), ensure_ascii=False))
    else:
        print_lines([*lines(results), *table_lines(results)])
    print(f"evidence: {settings.out}", file=sys.stderr if as_json else sys.stdout)


def _score_replies(
    task: str,
    responses: Path,
    out: Path | None,
    data_dir: Path | None,
    limit: int | None,
    seed: int,
    judge: JudgeEndpoint | None,
    as_json: bool,
) -> None:
    """Score a file of replies and print the result. Unknown and doubled ids are an error, raised after printing."""
    from tutelage.common.errors import TutelageError
    from tutelage.common.files import refuse_unwritable
    from tutelage.evaluation.benchmarks import benchmark
    from tutelage.evaluation.replies import problem, refuse_absent, score_file, write_evaluation

    bench = benchmark(task)
    refuse_absent(responses)
    if out is not None:
        refuse_unwritable(out, "--out")  # before a judge is asked
    scored = score_file(task, responses, data_dir, limit, seed, judge)
    if out is not None:
        write_evaluation(out, bench, scored)
    _print_scored(scored, as_json)
    if wrong := problem(scored.result):
        raise TutelageError(f"{responses}: {wrong}; correct the file (the scores above leave those replies out)")


def _print_scored(scored: Evaluation, as_json: bool) -> None:
    from tutelage.evaluation.run_benchmarks import lines

    if not as_json:
        print_lines(lines([scored.result]))
        return
    print(json.dumps(scored.result, ensure_ascii=False))
    say_notes(scored.result["notices"])


def _evaluate_recipe(
    recipe: Path,
    overrides: Sequence[str],
    model: ModelConfig,
    called: str,
    names: Sequence[str],
    runs: Path,
    debug: bool,
) -> None:
    """Evaluate the model on tasks of the recipe; finished evaluations are only printed."""
    from tutelage.api.evaluating import evaluate_on_recipe
    from tutelage.evaluation.run_benchmarks import score_words
    from tutelage.recipe.load import load_recipe

    loaded, base = load_recipe(recipe, overrides), recipe.resolve().parent
    folders, notes = evaluate_on_recipe(loaded, base, model, called, names, runs, debug, overrides)
    for name, folder in folders.items():
        result = read_json(folder, RESULT)
        for metric, score in result["metrics"].items():
            print(f"{name} {metric}: {score_words(metric, score, result['n'])} (n = {result['n']})")
        for notice in result.get("notices") or ():
            print_lines([f"note: {notice}"])
        print(f"examples: {folder / EXAMPLES}")
    say_notes(notes)


def _default_folder(model: str) -> str:
    from tutelage.evaluation.records import folder_name

    return f"evaluate-{folder_name(model)}"
