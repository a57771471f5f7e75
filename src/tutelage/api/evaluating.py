"""Scores of a model, and of two beside each other: `evaluate`, `compare`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.api.results import Comparison, Difference, Evaluation, Model, Score, number
from tutelage.api.rows import rows_path
from tutelage.api.settings import DATA, section
from tutelage.common import run_folder
from tutelage.common.errors import TutelageError, did_you_mean

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint
    from tutelage.recipe.recipe import RecipeConfig
    from tutelage.recipe.sections import ModelConfig


def evaluate(
    model: str | os.PathLike[str] | Model | Mapping[str, Any],
    tasks: str | Sequence[str] = (),
    *,
    data: Any = None,
    metrics: str | Sequence[str] = ("rouge_l", "exact_match"),
    max_new_tokens: int | None = None,
    recipe: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    runs: str | os.PathLike[str] = "runs",
    out: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    judge: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Evaluation:
    """Score a model: on rows of your own, on benchmarks, or on the tasks of a recipe.

    model: a model of a result (`result.models["gkd"]`), a folder, its name in `models/`, a run's folder, a GGUF file,
    or a hub id; or a dict with the keys of a recipe's model section, such as `revision` and `trust_remote_code`.

    On rows: `data`, a path, a hub data set, or rows in memory (a list of dicts, a pandas frame, a `datasets.Dataset`);
    its last assistant turns or `references` are what answers are compared with. metrics: `rouge_l`, `rouge_l_best`,
    `exact_match`, … (docs/evaluation.md). max_new_tokens: the longest answer; default 512. seed: of the sampling, which
    is greedy. `**columns`: how columns become a conversation, by the keys of a recipe's data section, such as
    `prompt="Summarize:\\n{text}", completion="{summary}"`. runs: the folder of runs, where finished ones are reused.

    On benchmarks: `tasks`, names such as "ifeval" and those of any task of lm-eval; limit: examples per benchmark;
    data_dir: folder of their data, default `$TUTELAGE_DATA`, else the hub; out: the folder of replies and scores,
    default `<runs>/evaluate-<model>`; max_new_tokens: default the benchmark's own; judge: of InFoBench, the keys of a
    study's judge section, such as `{"model": "some-model", "url": "http://localhost:8000/v1"}`, asked before anything
    is sampled whether it is there. On a recipe's tasks: `tasks` are names in the file `recipe`.

    Returns an `Evaluation`: scores with standard errors over examples (0 to 100), and the folders of the replies.
    Raises TutelageError, one line, for unknown tasks, missing data, a model that cannot be loaded, and a judge that
    does not answer.

    Example: `tutelage.evaluate("models/mine-gkd", data=[{"prompt": "2 + 2?", "completion": "4"}])`
    """
    from tutelage.delivery.find_model import find_model, thinking_of
    from tutelage.recipe.sections import ModelConfig

    given = model if isinstance(model, Mapping) else {"path": str(model.folder if isinstance(model, Model) else model)}
    found = find_model(section(ModelConfig, given).path)
    loading = section(ModelConfig, {"thinking": thinking_of(found), **given, "path": found.path})
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    judged_by = None if judge is None else _judge(judge, names if data is None and recipe is None else [])
    if data is not None:
        if names or recipe is not None:
            raise TutelageError("give either `data`, or `tasks` (with a `recipe` for its own)")
        try:
            content = _rows_recipe(data, metrics, max_new_tokens, seed, columns, Path(runs))
            return _evaluate_tasks(content, Path.cwd(), loading, found.name, ["data"], Path(runs))
        except TutelageError as error:
            raise TutelageError(_as_arguments(str(error))) from error
    if columns:
        raise TutelageError(f"unknown argument `{next(iter(columns))}`: keys of a data section go with `data`")
    if recipe is not None:
        from tutelage.recipe.load import load_recipe

        file = Path(recipe)
        return _evaluate_tasks(load_recipe(file), file.resolve().parent, loading, found.name, names, Path(runs))
    if not names:
        raise TutelageError("nothing to score it on: give `data`, or `tasks` such as ['ifeval']")
    where = Path(data_dir) if data_dir is not None else None
    options = {"limit": limit, "seed": seed, "max_new_tokens": max_new_tokens, "judge": judged_by, "data_dir": where}
    return _evaluate_benchmarks(loading, found.name, names, Path(runs), out, options)


def _as_arguments(message: str) -> str:
    """A message on the recipe of `_rows_recipe`, with the arguments of `evaluate` in place of its keys."""
    message = re.sub(r"\bdata\.data(\.path)?(?=[:\s])", "data", message.removeprefix("evaluate: "))
    return re.sub(r"\bdata\.data\.(?=\w)|\btasks\.data\.(sampling\.)?(?=\w)", "", message)


def _judge(keys: Mapping[str, Any], tasks: Sequence[str]) -> JudgeEndpoint:
    """The judge of benchmarks `tasks`. Raises TutelageError for keys that name none, and where none is asked."""
    from tutelage.evaluation.benchmarks import JUDGED, resolve_names
    from tutelage.evaluation.judges.endpoint import judge_of
    from tutelage.recipe.study import JudgeConfig

    if not tasks or JUDGED not in resolve_names(tasks):
        raise TutelageError(f"judge: nothing here is judged: leave it out, or give `{JUDGED}` in `tasks`")
    found = judge_of(section(JudgeConfig, keys))
    if found is None:
        raise TutelageError("judge: give the name of its `model`, beside its `url`")
    return found


def compare(
    a: str | os.PathLike[str] | Evaluation, b: str | os.PathLike[str] | Evaluation, *, samples: int = 10_000
) -> Comparison:
    """By how much two evaluations of the same examples differ: a − b per metric, its 95 % interval and p.

    a, b: what `evaluate` returned, or folders: of an evaluation run, or those that `tutelage evaluate` wrote. samples:
    of the paired bootstrap over examples.

    Returns a `Comparison`: `differences`, 0 to 100 (losses in nats), whose p-values are not corrected for their number.
    Raises TutelageError for folders without evaluations, without a common task, or of other examples.

    Example: `tutelage.compare(tutelage.evaluate("A", data=rows), tutelage.evaluate("B", data=rows))`
    """
    from tutelage.evaluation.compare import compare_folders

    folders = []
    for one in (a, b):
        if isinstance(one, Evaluation) and len(one.folders) != 1:
            raise TutelageError(f"an evaluation of {len(one.folders)} tasks: compare two of one task each, or folders")
        folders.append(next(iter(one.folders.values())) if isinstance(one, Evaluation) else Path(one))
    sides = [one.model if isinstance(one, Evaluation) else str(one) for one in (a, b)]
    if sides[0] == sides[1]:  # two models of one name
        sides = [str(folder) for folder in folders]
    found = compare_folders(folders[0], folders[1], samples=samples)
    differences, notes = [], []
    for task in found.tasks:
        notes += task.warnings
        for one in task.metrics:
            names = ("a", "b", "difference", "low", "high", "p_value")
            values = {name: number(getattr(one, name)) for name in names}
            differences.append(Difference(task.task, one.metric, examples=one.examples, **values))
    for side, only in (("a", found.only_a), ("b", found.only_b)):
        notes += [f"only in {side}: {', '.join(only)}"] if only else []
    return Comparison(sides[0], sides[1], tuple(differences), tuple(notes))


def evaluate_on_recipe(
    recipe: RecipeConfig,
    base: Path,
    model: ModelConfig,
    name: str,
    tasks: Sequence[str],
    runs: Path,
    debug: bool = False,
    overrides: Sequence[str] = (),
) -> tuple[dict[str, Path], list[str]]:
    """Let the model answer tasks of the recipe; returns the folder per task, and notes: on questions that the model was
    trained on, and on rows of another file that are not used. `name`: what runs and results call it. `overrides`: those
    that the recipe was loaded with. Finished evaluations are reused.

    Raises TutelageError for a task that the recipe lacks, and for a run that fails.
    """
    from tutelage.evaluation.records import folder_name
    from tutelage.models.files import locate
    from tutelage.recipe.stages import EvaluateStage
    from tutelage.runs.planner import Planner
    from tutelage.runs.rows.notes import other_file_notes
    from tutelage.runs.rows.trained_on import trained_notes
    from tutelage.runs.worker import attempt, make_runs_folder

    there = ", ".join(recipe.tasks)
    if not tasks:
        raise TutelageError(f"no task is named (there are: {there})")
    for task in tasks:
        if task not in recipe.tasks:
            raise TutelageError(f"recipe `{recipe.name}`: no task is called `{task}` (there are: {there})")
    stage = EvaluateStage(name="only", kind="evaluate", models=["teacher"], tasks=list(tasks))
    locate(model)  # what is wrong with it is not said of the recipe's teacher, in whose place it is
    planner = Planner(recipe.model_copy(update={"teacher": model, "stages": [stage]}), base, runs)
    make_runs_folder(runs)
    called = folder_name(name)  # all are planned, which reads their rows, before the first is answered
    planned = {task: planner.evaluation("teacher", task, recipe.seeds[0], called=called) for task in tasks}
    for run in planned.values():
        if not run.done and (error := attempt(run, debug)):
            raise TutelageError(error)
    notes = [*other_file_notes(planner, overrides), *trained_notes(planner, model.path, tasks)]
    return {task: run.folder for task, run in planned.items()}, notes


def _rows_recipe(
    rows: Any, metrics: str | Sequence[str], length: int | None, seed: int, columns: Mapping[str, Any], runs: Path
) -> RecipeConfig:
    """A recipe with one task, `data`: these rows."""
    from tutelage.recipe.load import recipe_from

    for key in columns:
        if key not in DATA:
            hint = did_you_mean(key, DATA, f"keys of a data section are {', '.join(DATA)}")
            raise TutelageError(f"unknown argument `{key}`: {hint}")
    sampling = {"temperature": 0.0} | ({} if length is None else {"max_new_tokens": length})
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    content: dict[str, Any] = {
        "name": "evaluate",
        "seeds": [seed],
        "data": {"data": {"path": rows_path(rows, runs / "data", "data"), **columns}},
        "teacher": {"path": "none"},
        "student": {"path": "none"},
        "tasks": {"data": {"data": "data", "metrics": names, "sampling": sampling}},
        "stages": [{"name": "scores", "kind": "evaluate", "models": ["teacher"], "tasks": ["data"]}],
    }
    return recipe_from(content, Path("evaluate"))


def _evaluate_tasks(
    recipe: RecipeConfig, base: Path, model: ModelConfig, name: str, tasks: Sequence[str], runs: Path
) -> Evaluation:
    folders, notes = evaluate_on_recipe(recipe, base, model, name, tasks, runs)
    results = [run_folder.read_json(folder, run_folder.RESULT) for folder in folders.values()]
    return _evaluation(name, results, folders, notes)


def _evaluate_benchmarks(
    loading: ModelConfig,
    name: str,
    tasks: Sequence[str],
    runs: Path,
    out: str | os.PathLike[str] | None,
    options: dict[str, Any],
) -> Evaluation:
    """`options`: other settings of `run_benchmarks`."""
    from tutelage.evaluation.benchmarks import resolve_names
    from tutelage.evaluation.records import folder_name
    from tutelage.evaluation.run_benchmarks import Settings, run_benchmarks

    folder = Path(out) if out is not None else runs / f"evaluate-{folder_name(loading.path)}"
    names = tuple(resolve_names(tasks))
    settings = Settings(tasks=names, model=loading.path, out=folder, loading=loading, **options)
    results = run_benchmarks(settings)
    folders = {result["task"]: folder / result["task"] for result in results}
    of_lm_eval = {task: folder / folder_name(task) for task, path in folders.items() if not path.is_dir()}
    return _evaluation(name, results, folders | of_lm_eval)


def _evaluation(
    name: str, results: Sequence[Mapping[str, Any]], folders: Mapping[str, Path], more: Sequence[str] = ()
) -> Evaluation:
    scores = [
        Score(name, result["task"], metric, found["value"], found["stderr"], result["n"])
        for result in results
        for metric, found in result["metrics"].items()
    ]
    notes = dict.fromkeys([*more, *(notice for result in results for notice in result.get("notices") or ())])
    return Evaluation(name, tuple(scores), dict(folders), tuple(notes))
