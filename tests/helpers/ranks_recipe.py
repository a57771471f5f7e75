"""A recipe whose training stage runs on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes_fixture import Workshop

from tutelage.recipe.load import load_recipe
from tutelage.runs.planner import Planner
from tutelage.runs.ranks import Share
from tutelage.runs.run import Run

STEPS = 60

GKD: dict[str, Any] = {
    "name": "gkd",
    "kind": "distill",
    "data": "train",
    "sampling": {"max_new_tokens": 6},
    "training": {"validation": "test", "checkpoint_every": 4, "max_steps": STEPS, "epochs": 20, "precision": "float32"},
}

TWO = Share(ranks=2)


def planned(workshop: Workshop, root: Path, **changes: Any) -> Run:
    file = workshop.write(**({"stages": [GKD]} | changes))
    return Planner(load_recipe(file), workshop.folder, root).stage_run("gkd", 0)
