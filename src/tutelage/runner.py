"""Running a recipe: search first, then every seed, several runs side by side where asked, nothing twice."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tutelage.attempt import attempt, make_runs_folder
from tutelage.config import EvaluateStage, PruneStage, RecipeConfig, SftStage, SynthesizeStage, TrainStage
from tutelage.evaluate.records import write_atomically
from tutelage.ranks import gpu_ids
from tutelage.recipe import Planner, Run
from tutelage.recipe_file import data_names, default_student, made_by
from tutelage.study_cost import CostModel
from tutelage.study_facts import machine
from tutelage.types import TutelageError
from tutelage.workers import Workers, with_parents

__all__ = ["attempt", "run_recipe"]


def run_recipe(
    recipe: RecipeConfig,
    base: Path,
    root: Path,
    jobs: int = 1,
    debug: bool = False,
    gpus_per_run: int | None = None,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Do everything a recipe asks for; returns the manifest that `report` reads (also written to
    `<root>/<recipe name>.json`). `jobs` runs go on at the same time, each in its own process. With `gpus_per_run` a
    training run is as many ranks, and no two runs share a GPU. `only`: these evaluate stages and what they build on."""
    began = time.monotonic()
    make_runs_folder(root)
    planner = Planner(recipe, base, root)
    if only:
        planner = Planner(_restricted(planner, only), base, root)
    gpus = gpu_ids(gpus_per_run) if gpus_per_run is not None and planner.device == "cuda" else None
    hours = CostModel(machine("H100")).hours if jobs > 1 else None
    with Workers(jobs, debug, hours=hours, ranks=gpus_per_run or 1, gpus=gpus) as workers:
        points = _search(planner, workers)
        runs = [*_trained(planner), *(e for _, _, e in _evaluations(planner))]
        workers.execute(runs)
    manifest = _manifest(planner, points, time.monotonic() - began)
    write_atomically(root / f"{recipe.name}.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def _restricted(planner: Planner, only: Sequence[str]) -> RecipeConfig:
    """The recipe with these evaluate stages alone, and the stages that they and the student build on."""
    recipe = planner.recipe
    names = [stage.name for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    for name in only:
        if name not in names:
            raise TutelageError(f"--only {name}: no evaluate stage is called so; there are {', '.join(names)}")
    sources = [model for stage in recipe.stages if isinstance(stage, EvaluateStage) and stage.name in only
               for model in stage.models]  # fmt: skip
    needed = set(only)
    for source in [*sources, "base"]:
        name = recipe.student if source == "base" else source
        if isinstance(name, str) and name in planner.stages:
            needed |= {name} | _ancestors(planner, name)
    return recipe.model_copy(update={"stages": [stage for stage in recipe.stages if stage.name in needed]})


def _search(planner: Planner, workers: Workers) -> list[dict[str, Any]]:
    """Try the grid for every stage that asks for it, with the first seed, and note each stage's best point.

    Stages whose inputs are settled are tried together; a stage that builds on searched ones comes in a later wave.
    """
    recipe, search = planner.recipe, planner.recipe.search
    points: list[dict[str, Any]] = []
    if search is None:
        return points
    open_stages = [s.name for s in recipe.stages if isinstance(s, TrainStage) and s.search]
    seed = recipe.seeds[0]
    while open_stages:
        wave = [n for n in open_stages if not (_ancestors(planner, n) & set(open_stages))]
        if not wave:
            raise TutelageError(f"stages {', '.join(open_stages)} wait for one another: `epochs_of` goes in a circle")
        trials: list[tuple[str, dict[str, Any], Run]] = []
        for name in wave:
            for settings in _grid(planner, name):
                trials.append((name, settings, planner.evaluation(name, _search_task(planner, name), seed, settings)))
        workers.execute([run for _, _, run in trials])
        values = [_headline(planner, name, run) for name, _, run in trials]
        for name in wave:
            mine = [(v, i) for i, v in enumerate(values) if trials[i][0] == name]
            best = max(mine, key=lambda pair: (pair[0] if pair[0] is not None else -1.0, -pair[1]))[1]
            planner.choices[name] = trials[best][1]
            points += [{"stage": name, **trials[i][1], "value": v, "chosen": i == best} for v, i in mine]
        open_stages = [n for n in open_stages if n not in wave]
    return points


def _search_task(planner: Planner, name: str) -> str:
    """The task that decides over a stage's settings."""
    stage = planner.stages[name]
    assert planner.recipe.search is not None
    assert isinstance(stage, TrainStage)
    asked = stage.search
    return asked if isinstance(asked, str) else planner.recipe.search.task


def _headline(planner: Planner, name: str, run: Run) -> float | None:
    metric = planner.recipe.tasks[_search_task(planner, name)].headline_metric
    return json.loads((run.folder / "result.json").read_text())["metrics"][metric]["value"]


def _grid(planner: Planner, name: str) -> list[dict[str, Any]]:
    assert planner.recipe.search is not None
    grid = dict(planner.recipe.search.grid)
    fixed = planner.settings(name)  # `epochs_of` settles the epochs, and the grid then has no say in them
    grid = {k: v for k, v in grid.items() if k not in fixed}
    return [fixed | dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _ancestors(planner: Planner, name: str) -> set[str]:
    """Stages whose settings must be known before stage `name` can be planned."""
    stage = planner.stages.get(name)
    names: list[str] = []
    if isinstance(stage, TrainStage):
        names = [stage.student or default_student(planner.recipe, name), *stage.epochs_of]
        names += [] if isinstance(stage, SftStage) else [stage.teacher]
        for data in data_names(stage, planner.training(name, {})):
            section = planner.recipe.data.get(data)
            maker = data if section is None else made_by(section.path)
            names += [] if maker is None else [maker]
    elif isinstance(stage, SynthesizeStage):
        names = [stage.generator, stage.annotator]
    elif isinstance(stage, PruneStage):
        names = [stage.model]
    found: set[str] = set()
    for other in names:
        source = planner.recipe.student if other == "base" else other
        if isinstance(source, str) and source in planner.stages:
            found |= {source} | _ancestors(planner, source)
    return found


def _trained(planner: Planner) -> list[Run]:
    made = [s for s in planner.recipe.stages if not isinstance(s, EvaluateStage)]
    return [planner.stage_run(s.name, seed) for s in made for seed in planner.recipe.seeds]


def _evaluations(planner: Planner) -> list[tuple[str, str, Run]]:
    """(subject, task, run) for every evaluate stage, in table order."""
    out, seen = [], set()
    for stage in planner.recipe.stages:
        if not isinstance(stage, EvaluateStage):
            continue
        for subject, task, seed in product(stage.models, stage.tasks, planner.recipe.seeds):
            run = planner.evaluation(subject, task, seed)
            if run.folder not in seen:
                seen.add(run.folder)
                out.append((subject, task, run))
    return out


def _manifest(planner: Planner, points: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What was made, row by row, in the form that `report.build_report` takes."""
    recipe = planner.recipe
    compare = [s.compare_to for s in recipe.stages if isinstance(s, EvaluateStage) and s.compare_to]
    sft = [s.name for s in recipe.stages if isinstance(s, SftStage) and s.student != "teacher" and not s.shared]
    evaluations = _evaluations(planner)
    subjects = list(dict.fromkeys(subject for subject, _, _ in evaluations))
    reference = next(iter(compare or [n for n in sft if n in subjects]), None)
    tasks = list(dict.fromkeys(task for _, task, _ in evaluations))
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "root": str(planner.root.resolve()),
        "seeds": recipe.seeds,
        "tasks": {task: _task_spec(planner, task, evaluations) for task in tasks},
        "reference": reference,
        "rows": [_row(planner, subject, evaluations) for subject in subjects],
        "search": None
        if recipe.search is None
        else {"task": _searched(planner), "grid": recipe.search.grid, "points": points},
        "facts": _facts(planner, seconds),
    }


def _task_spec(planner: Planner, task: str, evaluations: list[tuple[str, str, Run]]) -> dict[str, Any]:
    """A task's metrics and, where tasks have different rows, its own rows and the one that others are compared with."""
    config = planner.recipe.tasks[task]
    spec: dict[str, Any] = {"headline": config.headline_metric, "metrics": list(config.metrics)}
    rows = [subject for subject, name, _ in evaluations if name == task]
    if set(rows) != {subject for subject, _, _ in evaluations}:
        stages = [s for s in planner.recipe.stages if isinstance(s, EvaluateStage) and task in s.tasks]
        spec |= {"rows": rows, "reference": next((s.compare_to for s in stages if s.compare_to), None)}
    return spec


def _searched(planner: Planner) -> str:
    """The tasks that decided over settings; mostly one."""
    names = [s.name for s in planner.recipe.stages if isinstance(s, TrainStage) and s.search]
    assert planner.recipe.search is not None
    return ", ".join(dict.fromkeys(_search_task(planner, name) for name in names)) or planner.recipe.search.task


def _row(planner: Planner, subject: str, evaluations: list[tuple[str, str, Run]]) -> dict[str, Any]:
    stage = planner.stages.get(subject)
    runs: dict[int | None, dict[str, Any]] = {}
    for name, task, run in evaluations:
        if name != subject:
            continue
        trained = run.parents[0] if run.parents else None
        seed = run.seed if len(planner.recipe.seeds) == 1 or not _is_shared(planner, subject) else None
        entry = runs.setdefault(
            seed, {"seed": seed, "train": trained.folder.name if trained else None, "evaluations": {}}
        )
        entry["evaluations"].setdefault(task, run.folder.name)
    plain = {"lead_1": "lead-1 (first utterance)", "teacher": "Teacher", "base": "Base student"}
    return {
        "stage": subject,
        "label": (stage.label if stage is not None else None) or plain.get(subject, subject),
        "kind": stage.kind if stage is not None else "baseline" if subject == "lead_1" else "model",
        "chosen": planner.settings(subject) if stage is not None else {},
        "note": "",
        "runs": list(runs.values()),
    }


def _is_shared(planner: Planner, name: str) -> bool:
    """Whether one run stands for all seeds: a stage that says so, or a model that no stage makes."""
    student = planner.recipe.student
    stage = planner.stages.get(student if name == "base" and isinstance(student, str) else name)
    return stage is None or stage.shared


def _facts(planner: Planner, seconds: float) -> list[dict[str, str]]:
    facts: list[dict[str, str]] = []
    for run in with_parents(_trained(planner)):
        if run.seed != planner.recipe.seeds[0]:
            continue
        result = json.loads((run.folder / "result.json").read_text())
        if "keep" in result:
            kept = ", ".join(map(str, result["keep"]))
            facts.append({"label": f"{run.stage}: layers kept", "value": f"{kept} (of {result['layers']})"})
        if result.get("kind") == "synthesize":
            value = (
                f"{result['rows']:,} of {result['attempts']:,} attempts accepted (see {run.folder.name}/sample.html)"
            )
            facts.append({"label": f"{run.stage}: synthetic rows", "value": value})
        if "perplexity_before" in result:
            change = f"{result['perplexity_before']:,.1f} → {result['perplexity_after']:,.1f}"
            facts.append({"label": f"{run.stage}: perplexity on held-out rows", "value": change})
    some = next(iter([*_trained(planner), *(run for _, _, run in _evaluations(planner))]))
    environment = json.loads((some.folder / "environment.json").read_text())
    facts.append({"label": "machine", "value": f"{environment['device']}, torch {environment['torch']}"})
    done = with_parents([*_trained(planner), *(run for _, _, run in _evaluations(planner))])
    spent = sum(json.loads((run.folder / "result.json").read_text())["seconds"] for run in done)
    facts.append({"label": "all runs, one after the other", "value": f"{spent / 60:.1f} minutes"})
    facts.append({"label": "the last call alone", "value": f"{seconds / 60:.1f} minutes"})
    return facts
