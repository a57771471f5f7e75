"""Recipes from Python: `load_recipe`, `plan`, `run`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.api.results import Model, Models, Plan, PlannedRun, RunResult, Score, number
from tutelage.common.errors import TutelageError

if TYPE_CHECKING:
    from tutelage.recipe.recipe import RecipeConfig
    from tutelage.report.recipe.tables import TaskTable
    from tutelage.runs.recipe_results import RecipeResults

Overrides = Mapping[str, Any] | Sequence[str]


def load_recipe(path: str | os.PathLike[str], overrides: Overrides = ()) -> RecipeConfig:
    """Read and check a recipe file.

    path: a YAML file (docs/recipe.md has all keys). overrides: keys to change, with dots, a stage by its name: a dict
    `{"training.epochs": 3, "stages.gkd.beta": 0.1}`, or texts `["training.epochs=3"]` as on the command line.

    Returns the recipe, a frozen pydantic model: `recipe.training.learning_rate`, `recipe.stages[0].name`.
    Raises TutelageError that names the file, line or key that is wrong.

    Example: `recipe = tutelage.load_recipe("mine.yaml", {"training.epochs": 3})`
    """
    from tutelage.recipe.load import load_recipe as load

    return load(Path(path), as_texts(overrides), "overrides")


def plan(
    recipe: str | os.PathLike[str] | RecipeConfig,
    overrides: Overrides = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    folder: str | os.PathLike[str] | None = None,
    machine: str | None = None,
) -> Plan:
    """What `run` would do, without doing it: every run once, what is done already, and what would stop it here.

    recipe: a recipe file, or what `load_recipe` returns. overrides: as in `load_recipe`, for a file. runs: the folder
    of all runs. folder: where the recipe's relative paths start; default: its file's folder, for a loaded recipe the
    current one. machine: that hours and memory are estimated for: H100, H200, A100, B200 or L40S, one GPU; default:
    this one, its CPUs beside what else runs on them now.

    Returns a `Plan`: `plan.runs`, `plan.problems`, `plan.not_reused`, `plan.frame()`.
    Raises TutelageError for a recipe that is wrong, for data that are not there, and for a machine that is not known.

    Example: `print(tutelage.plan("mine.yaml"))`
    """
    from tutelage.runs.cost.cost_model import CostModel
    from tutelage.runs.cost.cpu import cpu_seconds, measured_pace
    from tutelage.runs.cost.facts import machine as find_machine
    from tutelage.runs.kinds import cost_of, label_of
    from tutelage.runs.planner import Planner
    from tutelage.runs.preflight import find_problems
    from tutelage.runs.preflight.machine import look_at_machine
    from tutelage.runs.preflight.not_reused import not_reused
    from tutelage.runs.run import with_parents
    from tutelage.runs.run_recipe import counting_template
    from tutelage.runs.search import Search

    config, base, _ = read_recipe(recipe, overrides, folder)
    root = Path(runs)
    search = Search(Planner(config, base, root))
    here = None if machine is not None else look_at_machine(search.planner.device)
    on_cpu = here is not None and here.device == "cpu"
    named = find_machine(machine or "H100") if here is None or here.machine is None else here.machine
    model = CostModel(named, 1, counting_template(config) if on_cpu else None)
    found = search.expected()
    planned = []
    for one in found:
        cost = cost_of(one, model)
        hours = cost.hours if cost and not on_cpu else cost and cpu_seconds(one, cost, model, measured_pace()) / 3600
        price = (None, None) if cost is None else (hours, cost.memory_gib)
        planned.append(PlannedRun(one.stage, label_of(one), one.seed, one.done, *price, one.folder))
    problems = tuple(problem.text for problem in find_problems(found, root, data=False) if problem.stops)
    changed = not_reused(search.planner, with_parents(search.known()))
    where = f"one {machine}" if here is None else f"this machine ({here.said.removeprefix('no GPU; ')})"
    return Plan(config.name, where, tuple(planned), problems, tuple(changed))


def run(
    recipe: str | os.PathLike[str] | RecipeConfig,
    overrides: Overrides = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    folder: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
    jobs: int = 1,
    gpus_per_run: int | None = None,
    text: bool = True,
) -> RunResult:
    """Run a recipe: all its stages, then the report and the models' folders. As `tutelage run` does.

    Runs that are done are reused, and one that was stopped goes on: the same call again continues.

    recipe: a recipe file, or what `load_recipe` returns. overrides: as in `load_recipe`, for a file. runs: the folder
    of all runs; the models get readable names in `models/` beside it. folder: where the recipe's relative paths start;
    default: its file's folder, for a loaded recipe the current one. report: the folder of the report; default:
    `<runs>/<name>-report`. only: evaluate stages to do, with what they build on; default: all. jobs: runs at the same
    time, each in its own process (a script then needs `if __name__ == "__main__":`). gpus_per_run: ranks of a training
    run, one GPU each. text: whether the report shows the data's and the models' texts.

    Returns a `RunResult`: verdict, scores with standard errors (0 to 100), models, the report's path.
    Raises TutelageError, one line, for a wrong recipe, missing data or models, and a run that fails.

    Example: `result = tutelage.run("mine.yaml", {"training.epochs": 3})`
    """
    from tutelage.common.files import refuse_unwritable
    from tutelage.delivery import deliver_models
    from tutelage.forecasting.record import remember
    from tutelage.recipe.owner import claim, make_way
    from tutelage.report.recipe.choice import choose
    from tutelage.report.recipe.new_rows import new_rows
    from tutelage.report.recipe.page import build_report
    from tutelage.report.recipe.tables import build_tables
    from tutelage.report.recipe.verdicts import verdicts
    from tutelage.runs.run_recipe import run_recipe

    config, base, file = read_recipe(recipe, overrides, folder)
    root = Path(runs)
    out = Path(report or root / f"{config.name}-report")
    changed, given = as_texts(overrides), report is not None
    beside = f" and models/{config.name}-…"
    if not given:
        refuse_unwritable(root, "`runs`")
    replaced = make_way(out, file, config.name, "report", "`report`", changed, given=given, beside=beside)
    stages = [only] if isinstance(only, str) else only
    results = run_recipe(config, base, root, jobs, False, gpus_per_run, stages, overrides=changed)
    results = replace(results, overrides=tuple(changed))
    words = [] if file is None else ["tutelage", "run", str(file), *changed]
    made = deliver_models(results, root, words, file)
    page = build_report(results, out, include_text=text)
    claim(out, file, config.name, changed, results.planned - results.done)
    remember(config, base, results, root)
    tables = build_tables(results)
    choice = choose(results, tables)
    said = [verdict.text for verdict in verdicts(results, tables)] + (
        [] if choice is None else [choice.use, choice.why]
    )
    new = [one.note for one in new_rows(results, tables)]
    reference = {table.reference.stage for table in tables if table.reference is not None}
    return RunResult(
        name=config.name,
        verdict=" ".join(said),
        scores=tuple(score for table in tables for score in _scores(table)),
        reference=reference.pop() if len(reference) == 1 else None,
        models=_models(results, made.folders),
        page=page,
        recipe=file,
        runs=root,
        notes=(*replaced, *results.left_out, *results.row_notes, *results.notices, *new, *made.notes),
    )


def read_recipe(
    recipe: str | os.PathLike[str] | RecipeConfig, overrides: Overrides, folder: str | os.PathLike[str] | None
) -> tuple[RecipeConfig, Path, Path | None]:
    """The recipe, the folder where its relative paths start, and its file, if there is one. Raises TutelageError for a
    wrong recipe file, and for overrides of a loaded recipe."""
    if isinstance(recipe, str | os.PathLike):
        file = Path(recipe)
        return load_recipe(file, overrides), Path(folder).resolve() if folder else file.resolve().parent, file
    if overrides:
        raise TutelageError("overrides are for a recipe file: give them to `load_recipe`")
    return recipe, Path(folder or ".").resolve(), None


def as_texts(overrides: Overrides) -> list[str]:
    """Overrides as `key=value`; values of a dict are written as JSON, which is YAML."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else [*overrides]


def _scores(table: TaskTable) -> list[Score]:
    found = []
    for row in table.rows:
        for value in row.values:
            versus = value.versus
            compared = (
                (None,) * 4
                if versus is None
                else tuple(map(number, (versus.difference, versus.low, versus.high, versus.p_value)))
            )
            counts = (row.examples, len(value.seeds))
            mean = (number(value.value), number(value.stderr))
            found.append(Score(row.stage, table.task, value.metric, *mean, *counts, *compared))
    return found


def _models(results: RecipeResults, folders: Sequence[Path]) -> Models:
    """The trained models that are done, in their readable folders where these could be written."""
    from tutelage.common.run_folder import MODEL

    named = {folder.name: folder for folder in folders}
    found = {}
    for model in results.models:
        if model.run.done:
            key = model.stage if model.seed is None else f"{model.stage}-s{model.seed}"
            name = f"{results.name}-{key}"
            found[key] = Model(name, named.get(name, model.run.folder / MODEL), model.stage, model.seed)
    return Models(found)
