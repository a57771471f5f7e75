"""The memory and disk of a run that trains an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cost_runs import B8, W8, cost, model_of, parts, run_of

from tutelage.recipe.sections import (
    LoraConfig,
    ModelConfig,
    TrainingConfig,
)
from tutelage.runs.cost.disk import disk_of
from tutelage.runs.cost.facts import machine
from tutelage.runs.cost.memory import GIB
from tutelage.runs.preflight import misfits
from tutelage.runs.run import Run

A8 = 41_943_040
LAYERS8 = W8 - 2 * 128_256 * 4096 - 65 * 4096  # weights of the linear maps of its layers


def lora_run(training: dict[str, Any], teacher: ModelConfig | None = None, **lora: Any) -> Run:
    run = run_of("distill", TrainingConfig(**training), student=B8, teacher=B8)
    models = run.models | ({} if teacher is None else {"teacher": teacher})
    return replace(run, lora=LoraConfig(**lora), models=models)


def test_an_adapter_is_trained_and_its_base_frozen():
    instruct = ModelConfig(path=B8, revision="other")
    found = parts(lora_run({}, instruct), ranks=1)
    assert (found["adapter and optimizer"], found["copies in bfloat16"]) == (16 * A8, 2 * A8)
    assert (found["frozen base"], found["teacher"]) == (2 * W8, 2 * W8)
    assert "student to sample from" not in found  # the adapter is sampled from where it is
    assert "teacher" not in parts(lora_run({}), ranks=1)  # the same model: held once
    narrow = parts(lora_run({}, r=4, targets=["q_proj", "lm_head"]), ranks=1)
    assert narrow["adapter and optimizer"] == 16 * 4 * (32 * 8192 + 4096 + 128_256)
    two = parts(lora_run({"shard": True}, instruct), ranks=2)
    assert (two["frozen base"], two["teacher"], two["adapter and optimizer"]) == (W8, W8, 8 * A8)


def test_four_bit_weights_take_four_bits_and_their_scales():
    quantised = (0.5 + 1 / 64 + 4 / 16_384) * LAYERS8 + 2 * (W8 - LAYERS8)
    four = ModelConfig(path=B8, revision="other", precision="nf4")
    found = parts(lora_run({}, four, base="nf4"), ranks=1)
    assert found["frozen base"] == found["teacher"] == pytest.approx(quantised)
    eight = ModelConfig(path=B8, precision="int8")
    assert parts(lora_run({}, eight, base="nf4"), ranks=1)["teacher"] == LAYERS8 + 2 * (W8 - LAYERS8)
    same = ModelConfig(path=B8, precision="nf4")
    assert "teacher" not in parts(lora_run({}, same, base="nf4"), ranks=1)


def test_8b_beside_8b_fits_a_card_of_24_gb():
    """Student and another teacher in four bits, at most 22 GiB; in bfloat16 it does not fit."""
    card = replace(machine("H100"), memory=24e9 / GIB)
    settings = {"gradient_checkpointing": True, "tokens_per_micro_batch": 4096}
    four = ModelConfig(path=B8, revision="other", precision="nf4")
    run = lora_run(settings, four, base="nf4")
    assert misfits([run], model_of(card)) == []
    assert cost(run, card).memory_gib < 22
    assert misfits([lora_run(settings, four)], model_of(card))[0].stops


def test_an_adapter_needs_no_gradient_of_the_weights():
    full, adapter = cost(run_of("distill", student=B8, teacher=B8)), cost(lora_run({}))
    assert 0.7 < adapter.flops / full.flops < 0.8  # (4 + 2) / (6 + 2) of the products per token
    assert adapter.hours < full.hours


def test_disk_of_an_adapter():
    model = model_of("H100")
    merged = disk_of(lora_run({}), model)
    assert (merged.models, merged.checkpoints) == (2 * W8 + 4 * A8, 2 * 12 * A8)
    assert disk_of(lora_run({}, keep_adapter=True), model).models == 4 * A8
