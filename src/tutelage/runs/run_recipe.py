"""Running a recipe: search first, then every seed, several runs side by side where asked, nothing twice."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import EvaluateStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.manifest import make_manifest
from tutelage.runs.planner import Planner
from tutelage.runs.ranks import gpu_ids
from tutelage.runs.run import Run
from tutelage.runs.scheduler import Scheduler
from tutelage.runs.search import Search, ancestors
from tutelage.runs.worker import make_runs_folder


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
    search, model = Search(planner), CostModel(machine("H100"))

    known: dict[str, float] = {}

    def hours(run: Run) -> float:  # trials first: the more stages wait for one, the sooner
        if run.fingerprint not in known:
            known[run.fingerprint] = model.hours(run) + search.waited_for.get(run.fingerprint, 0)
        return known[run.fingerprint]

    with Scheduler(jobs, debug, hours=hours if jobs > 1 else None, ranks=gpus_per_run or 1, gpus=gpus) as workers:
        workers.execute(search.known, search.expected())
    manifest = make_manifest(planner, search.points, time.monotonic() - began)
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
            needed |= {name} | ancestors(planner, name)
    return recipe.model_copy(update={"stages": [stage for stage in recipe.stages if stage.name in needed]})
