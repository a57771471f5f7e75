from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import do_not_draw
from recipes_fixture import ROWS, Workshop

from tutelage.cli.main import main

RECIPE = {
    "name": "tiny",
    "device": "cpu",
    "data": {"train": {"path": "train.jsonl"}, "test": {"path": "test.jsonl"}},
    "training": {"batch_size": 4, "epochs": 1, "max_length": 96, "learning_rate": 0.001},
    "tasks": {"test": {"data": "test", "metrics": ["rouge_l"], "sampling": {"temperature": 0.0, "max_new_tokens": 6}}},
    "stages": [
        {"name": "sft", "kind": "sft", "data": "train"},
        {"name": "gkd", "kind": "distill", "data": "train", "on_policy": 0.0, "label": "GKD | SFT-S"},
        {"name": "scores", "kind": "evaluate", "models": ["base", "sft", "gkd"], "tasks": ["test"]},
    ],
}


@pytest.fixture(scope="module")
def made(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A workshop whose recipe was run by `tutelage run`; its folder is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        do_not_draw(patch)
        patch.setenv("TUTELAGE_CACHE", str(tiny_models / "cache"))
        folder = tmp_path_factory.mktemp("made")
        paths = {role: {"path": str(tiny_models / role)} for role in ("teacher", "student")}
        workshop = Workshop(folder, tiny_models, {**RECIPE, **paths})
        workshop.rows("train", ROWS)
        workshop.rows("test", ROWS[:4])
        patch.chdir(folder)
        workshop.write()
        main(["run", "recipe.yaml"])
        yield workshop
