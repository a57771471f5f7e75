"""AdamW with its state elsewhere takes AdamW's steps; the learning rate reaches every kind; resume is exact."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import TrainingConfig
from tutelage.recipe.stages import SftStage
from tutelage.runs.fingerprints import stage_fingerprint
from tutelage.training import checkpoint
from tutelage.training.memory_budget import holds
from tutelage.training.optimizer import OffloadedAdamW, make_optimizer, set_learning_rate, state_bytes
from tutelage.training.trainer import Trainer

TORCHAO = importlib.util.find_spec("torchao") is not None
KINDS = ["adamw_offload", pytest.param("adamw_8bit", marks=pytest.mark.skipif(not TORCHAO, reason="needs torchao"))]
SLOW = {"weight_decay": 0.1, "adam_betas": (0.8, 0.95), "max_grad_norm": 0.03, "epochs": 3, "learning_rate": 1e-2}


def trained(folder: Path, kind: str, **more: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(jobs.sft(folder, model=tiny.llama(hidden=128), **{**SLOW, "optimizer": kind, **more}))
    trainer.run()
    return trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.module.parameters()])


def test_offloaded_steps_are_adamws_bit_for_bit(tmp_path: Path):
    plain, offloaded = (trained(tmp_path / kind, kind) for kind in ("adamw", "adamw_offload"))
    assert isinstance(offloaded.optimizer.optimizer, OffloadedAdamW)
    assert torch.equal(weights(plain), weights(offloaded))
    assert not torch.equal(weights(plain), torch.cat([p.flatten() for p in tiny.llama(hidden=128).parameters()]))


@pytest.mark.skipif(not TORCHAO, reason="needs torchao")
@pytest.mark.slow
def test_eight_bits_stay_near_adamw(tmp_path: Path):
    start = torch.cat([p.detach().flatten() for p in tiny.llama(hidden=128).parameters()])
    plain, coded = (weights(trained(tmp_path / kind, kind)) - start for kind in ("adamw", "adamw_8bit"))
    assert (plain - coded).norm() < 0.1 * plain.norm()
    assert not torch.equal(plain, coded)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(tmp_path: Path, kind: str):
    whole = trained(tmp_path / "whole", kind)
    first = Trainer(jobs.sft(tmp_path / "parts", model=tiny.llama(hidden=128), **SLOW, optimizer=kind))
    for step in range(3):
        first.step(step)
    folder = tmp_path / "parts" / "checkpoints"
    checkpoint.save_checkpoint(folder, 3, first.module, first.optimizer, "one")
    again = Trainer(jobs.sft(tmp_path / "parts", model=tiny.llama(hidden=128, seed=9), **SLOW, optimizer=kind))
    checkpoint.load_checkpoint(folder / "checkpoint-00000003", again.module, again.optimizer)
    for step in range(3, again.total_steps):
        again.step(step)
    assert torch.equal(weights(again), weights(whole))
    if kind == "adamw_offload":
        assert all(v.device.type == "cpu" for state in again.optimizer.state.values() for v in state.values())


@pytest.mark.parametrize("kind", ["adamw", *KINDS])
def test_the_rate_of_a_step_is_the_schedules(kind: str):
    layer = torch.nn.Linear(2, 2, bias=False)
    optimizer = make_optimizer(TrainingConfig(optimizer=kind, learning_rate=1.0), layer)
    set_learning_rate(optimizer, 0.25)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(before - layer.weight, torch.full((2, 2), 0.25), rtol=1e-5, atol=1e-5)


def test_eight_bits_without_torchao_are_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TutelageError, match=r"^training\.optimizer: `adamw_8bit` needs torchao: pip install"):
        make_optimizer(TrainingConfig(optimizer="adamw_8bit"), torch.nn.Linear(2, 2))


def test_bytes_of_the_moments():
    assert [state_bytes(kind, 400, 4) for kind in ("adamw", "adamw_8bit", "adamw_offload")] == [800, 200, 0]
    assert state_bytes("adamw_8bit", 200, 2) == 200  # bfloat16 weights


def test_a_default_is_not_in_the_fingerprint_and_other_values_are():
    stage = SftStage(name="sft", kind="sft", data="train")
    keys = [
        stage_fingerprint(stage, TrainingConfig(**more), 0, {}, [], "cpu")
        for more in ({}, {"optimizer": "adamw"}, {"optimizer": "adamw_8bit"}, {"save_precision": "bfloat16"})
    ]
    assert keys[0] == keys[1]
    assert len({*keys}) == 3
    assert "optimizer" not in TrainingConfig().model_dump()
    auto = stage_fingerprint(stage, TrainingConfig(gradient_checkpointing="auto"), 0, {}, [], "cpu")
    assert auto == keys[0]


@pytest.mark.parametrize(("tokens", "fits"), [(8_000, True), (9_000, False)])
def test_activations_are_recomputed_when_a_micro_batch_does_not_fit(tokens: int, fits: bool):
    """10 bytes per token beside 5,000 and 4,000 that come later: 95 % of 94,000 bytes hold 8,030 tokens."""
    assert holds(lambda n: 5_000 + 10 * n, 94_000, 4_000, tokens) == fits


def test_a_probe_out_of_memory_counts_as_too_much(monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> int:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert not holds(full, 10**9, 0, 1)


def test_on_a_cpu_auto_recomputes_nothing(tmp_path: Path):
    trainer = trained(tmp_path, "adamw", gradient_checkpointing="auto")
    assert not trainer.job.student.model.is_gradient_checkpointing
    assert torch.equal(weights(trainer), weights(trained(tmp_path / "plain", "adamw")))
