"""Running a recipe: search first, then every seed, several runs side by side where asked, nothing twice."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any

from tutelage.config import EvaluateStage, PruneStage, RecipeConfig, SftStage, SynthesizeStage, TrainStage
from tutelage.evaluate.records import write_atomically
from tutelage.recipe import Planner, Run
from tutelage.recipe_file import data_names, default_student, made_by
from tutelage.types import TutelageError


def run_recipe(recipe: RecipeConfig, base: Path, root: Path, jobs: int = 1, debug: bool = False) -> dict[str, Any]:
    """Do everything a recipe asks for; returns the manifest that `report` reads (also written to
    `<root>/<recipe name>.json`). `jobs` runs go on at the same time, each in its own process."""
    began = time.monotonic()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TutelageError(f"cannot make the folder {root}: {error.strerror}; choose another with --runs") from error
    planner = Planner(recipe, base, root)
    with _Workers(jobs, debug) as workers:
        points = _search(planner, workers)
        runs = [*_trained(planner), *(e for _, _, e in _evaluations(planner))]
        workers.execute(runs)
    manifest = _manifest(planner, points, time.monotonic() - began)
    write_atomically(root / f"{recipe.name}.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def _search(planner: Planner, workers: _Workers) -> list[dict[str, Any]]:
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


class _Workers:
    """Does runs in the order of their dependencies, in this process or in several."""

    def __init__(self, jobs: int, debug: bool) -> None:
        self.jobs, self.debug = jobs, debug
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self.jobs > 1:
            import multiprocessing

            self.pool = ProcessPoolExecutor(
                self.jobs, multiprocessing.get_context("spawn"), initializer=_die_with_parent, initargs=(os.getpid(),)
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def execute(self, runs: Sequence[Run]) -> None:
        """Do all runs and what they build on. A failing run stops only what depends on it; then raises for it."""
        todo = _with_parents(runs)
        failed: dict[str, str] = {}
        running: dict[Future[str | None], Run] = {}
        finished = {r.fingerprint for r in todo if r.done}
        # What most others wait for goes first.
        heirs = {r.fingerprint: sum(r in _with_parents([other]) for other in todo) for r in todo}
        waiting = sorted((r for r in todo if not r.done), key=lambda r: -heirs[r.fingerprint])
        total, started = len(waiting), time.monotonic()
        while waiting or running:
            for run in list(waiting):
                if any(p.fingerprint in failed for p in run.parents):
                    failed[run.fingerprint] = f"{run.stage}: not done, since it builds on a stage that failed"
                    waiting.remove(run)
                elif len(running) < self.jobs and all(p.fingerprint in finished for p in run.parents):
                    waiting.remove(run)
                    if self.pool is None:
                        self._record(run, attempt(run, self.debug), failed, finished)
                        break
                    running[self.pool.submit(attempt, run, self.debug)] = run
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._record(running.pop(future), _outcome(future), failed, finished)
            done = total - len(waiting) - len(running)
            if total > 1:
                left = (time.monotonic() - started) / max(1, done) * (total - done)
                print(f"{done} of {total} runs done, about {left:.0f} s left", flush=True)
        if failed:
            raise TutelageError(next(iter(failed.values())))

    def _record(self, run: Run, error: str | None, failed: dict[str, str], finished: set[str]) -> None:
        if error is None:
            finished.add(run.fingerprint)
        else:
            failed[run.fingerprint] = error
            print(f"failed: {error}", flush=True)


def _outcome(future: Future[str | None]) -> str | None:
    """What a worker says of its run; a worker that was killed can say nothing, and takes the pool with it."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise TutelageError(
            "a worker was killed from outside, probably for want of memory: use fewer `--jobs` or a smaller "
            "`training.tokens_per_micro_batch`; the same command goes on from the last checkpoints"
        ) from error


def attempt(run: Run, debug: bool = False) -> str | None:
    """Do one run. None when it stands, else one line of what went wrong; the log beside the run has the rest."""
    from tutelage.stage import do_run, lock
    from tutelage.trainer import Interrupted

    held = lock(run)
    if held is None:
        return f"{run.stage}: another process is at work on {run.folder}; wait for it, or stop it"
    try:
        do_run(run)
        return None
    except Interrupted:
        raise  # somebody wants the whole recipe to stop, not to go on with the next stage
    except TutelageError as error:
        return f"{run.stage}: {error}"
    except Exception as error:
        (run.folder / "error.log").write_text(traceback.format_exc())
        if debug:
            raise
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"{run.stage}: {type(error).__name__}: {line} (the whole traceback: {run.folder / 'error.log'})"
    finally:
        held.unlink(missing_ok=True)
        _free_memory()


def _free_memory() -> None:
    """Give this run's GPU memory back to the other workers."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _die_with_parent(parent: int) -> None:
    """A worker whose driver was killed must not go on holding memory and locks; nothing is lost by stopping it."""
    import ctypes
    import signal

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _with_parents(runs: Sequence[Run]) -> list[Run]:
    """Each run once, parents before children."""
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.fingerprint not in ordered:
            for parent in run.parents:
                visit(parent)
            ordered[run.fingerprint] = run

    for run in runs:
        visit(run)
    return list(ordered.values())


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
    for run in _with_parents(_trained(planner)):
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
    done = _with_parents([*_trained(planner), *(run for _, _, run in _evaluations(planner))])
    spent = sum(json.loads((run.folder / "result.json").read_text())["seconds"] for run in done)
    facts.append({"label": "all runs, one after the other", "value": f"{spent / 60:.1f} minutes"})
    facts.append({"label": "the last call alone", "value": f"{seconds / 60:.1f} minutes"})
    return facts
