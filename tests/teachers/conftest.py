"""A tiny distillation whose teacher is wherever a test puts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import teacher_servers
import torch
from recipes_fixture import Workshop
from safetensors.torch import load_file

from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.stages import teacher as stage
from tutelage.teachers import patience


@dataclass
class Trained:
    """A run that has ended."""

    run: Run

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.run.folder / "model" / "model.safetensors")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        lines = read_metrics(self.run.folder / "metrics.jsonl")
        return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in lines]

    def equals(self, other: Trained, tolerance: float = 1e-6) -> None:
        """Weights and logged numbers are those of another run."""
        for name, value in other.weights.items():
            torch.testing.assert_close(self.weights[name], value, rtol=tolerance, atol=tolerance)
        for mine, theirs in zip(self.metrics, other.metrics, strict=True):
            assert mine.keys() == theirs.keys()
            for key, value in theirs.items():
                assert mine[key] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)), key


Distil = Callable[..., Trained]


@pytest.fixture
def plan(workshop: Workshop) -> Callable[..., Run]:
    """Plan the stage `gkd`, from the untrained student; keys are the stage's. `root`: the folder of runs."""

    def planned(root: str = "runs", on_policy: float = 0.5, changes: dict[str, Any] | None = None, **stage: Any) -> Run:
        gkd = {"name": "gkd", "kind": "distill", "student": "base", "data": "train", "on_policy": on_policy}
        training = {"max_steps": 3, "epochs": 3, "checkpoint_every": 1, "tokens_per_micro_batch": 40}
        gkd |= {"sampling": {"max_new_tokens": 6}, "training": training} | stage
        file = workshop.write(**({"stages": [gkd]} | (changes or {})))
        return Planner(load_recipe(file), workshop.folder, workshop.folder / root).stage_run("gkd", 0)

    return planned


@pytest.fixture
def distil(plan: Callable[..., Run]) -> Distil:
    """Train that stage to the end."""

    def trained(*arguments: Any, **options: Any) -> Trained:
        run = plan(*arguments, **options)
        do_run(run)
        return Trained(run)

    return trained


@pytest.fixture
def served(tiny_models: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Iterator[teacher_servers.Served]:
    """The teacher of `tiny_models`, served; requests are repeated without much delay."""
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.01)
    made = teacher_servers.serving(str(tiny_models / "teacher"))
    yield made
    made.stop()


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of teachers that runs load, weights and all."""
    loaded: list[str] = []
    real = stage.load_model
    monkeypatch.setattr(stage, "load_model", lambda config, *more: (loaded.append(config.path), real(config, *more))[1])
    return loaded
