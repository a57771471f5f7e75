"""What a recipe made, row by row, in the form that the report reads."""

from __future__ import annotations

from typing import Any

from tutelage.common import run_folder
from tutelage.recipe.stages import EvaluateStage, SftStage, TrainStage
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run, with_parents
from tutelage.runs.search import evaluations, search_task, trained


def make_manifest(planner: Planner, points: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What was made, row by row, in the form that `report.build_report` takes."""
    recipe = planner.recipe
    compare = [s.compare_to for s in recipe.stages if isinstance(s, EvaluateStage) and s.compare_to]
    sft = [s.name for s in recipe.stages if isinstance(s, SftStage) and s.student != "teacher" and not s.shared]
    scores = evaluations(planner)
    subjects = list(dict.fromkeys(subject for subject, _, _ in scores))
    reference = next(iter(compare or [n for n in sft if n in subjects]), None)
    tasks = list(dict.fromkeys(task for _, task, _ in scores))
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "root": str(planner.root.resolve()),
        "seeds": recipe.seeds,
        "tasks": {task: _task_spec(planner, task, scores) for task in tasks},
        "reference": reference,
        "rows": [_row(planner, subject, scores) for subject in subjects],
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
    return ", ".join(dict.fromkeys(search_task(planner, name) for name in names)) or planner.recipe.search.task


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
    for run in with_parents(trained(planner)):
        if run.seed != planner.recipe.seeds[0]:
            continue
        result = run_folder.read_json(run.folder, run_folder.RESULT)
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
    some = next(iter([*trained(planner), *(run for _, _, run in evaluations(planner))]))
    environment = run_folder.read_json(some.folder, run_folder.ENVIRONMENT)
    facts.append({"label": "machine", "value": f"{environment['device']}, torch {environment['torch']}"})
    done = with_parents([*trained(planner), *(run for _, _, run in evaluations(planner))])
    spent = sum(run_folder.read_json(run.folder, run_folder.RESULT)["seconds"] for run in done)
    facts.append({"label": "all runs, one after the other", "value": f"{spent / 60:.1f} minutes"})
    facts.append({"label": "the last call alone", "value": f"{seconds / 60:.1f} minutes"})
    return facts
