"""Runs of every kind, and what each costs by the cost model, for the tests of memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tutelage.recipe.sections import (
    AnswerSamplingConfig,
    DataConfig,
    ModelConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from tutelage.recipe.stages import (
    DistillStage,
    PruneConfig,
    PruneStage,
    SeqkdStage,
    SftStage,
    SynthesizeStage,
)
from tutelage.recipe.study import BenchmarkTask, HeldOutTask
from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.cost.facts import Machine, Rows, machine
from tutelage.runs.cost.memory import GIB
from tutelage.runs.kinds import cost_of
from tutelage.runs.run import Run

B1, B8, B70 = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
W1, W8, W70 = 1_235_814_400, 8_030_261_248, 70_553_706_496  # published parameter counts
ROWS = Rows(1000, 300, 100)
SAMPLING = SamplingConfig(max_new_tokens=312, batch_size=8)  # a prompt of 200 and these: 512 positions
ANSWERS = AnswerSamplingConfig(**SAMPLING.model_dump())
STAGES: dict[str, Any] = {
    "sft": SftStage(name="sft", kind="sft", data="rows"),
    "distill": DistillStage(name="gkd", kind="distill", data="rows", on_policy=0.5, sampling=SAMPLING),
    "answers": SeqkdStage(name="seqkd", kind="seqkd", data="rows", sampling=SAMPLING),
    "seqkd": SeqkdStage(name="seqkd", kind="seqkd", data="rows", sampling=SAMPLING),
    "synthesize": SynthesizeStage(
        name="new", kind="synthesize", gold="rows", rows=100_000, inputs=SAMPLING, answers=SAMPLING, demonstrations=1
    ),
    "prune": PruneStage(name="cut", kind="prune", prune=PruneConfig(layers=8, calibration="rows")),
    "evaluate": TaskConfig(data="rows", sampling=ANSWERS),
    "benchmark": BenchmarkTask(benchmark="ifeval", batch_size=8),
    "held_out": HeldOutTask(data="rows", tokens_per_micro_batch=1000),
}


def run_of(kind: str, training: TrainingConfig | None = None, config: Any = None, **models: str) -> Run:
    config = STAGES[kind] if config is None else config
    training = training or (TrainingConfig() if kind in ("sft", "distill", "seqkd") else None)
    return Run(
        stage=kind, kind=kind, seed=0, folder=Path("nowhere"), fingerprint=f"{kind} {models}", device="cuda",
        recipe_folder=Path(), config=config, training=training, data={"rows": DataConfig(path="rows")},
        models={role: ModelConfig(path=path) for role, path in models.items()},
    )  # fmt: skip


def model_of(on: str | Machine, ranks: int | None = None) -> CostModel:
    model = CostModel(machine(on) if isinstance(on, str) else on, ranks)
    model.rows = lambda *_: ROWS  # type: ignore[method-assign]
    model.elsewhere = lambda where, n: model_of(where, n)  # type: ignore[method-assign]
    return model


def cost(run: Run, on: str = "8xH200", ranks: int | None = None) -> Cost:
    found = cost_of(run, model_of(on, ranks))
    assert found is not None
    return found


def parts(run: Run, on: str = "8xH200", ranks: int | None = None) -> dict[str, float]:
    """Bytes by part; they add up to the whole."""
    found = cost(run, on, ranks)
    assert found.memory_gib == pytest.approx(sum(found.memory_parts.values()))
    return {name: size * GIB for name, size in found.memory_parts.items()}
