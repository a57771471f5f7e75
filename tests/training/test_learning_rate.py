"""The learning rate per step, against explicit values."""

from __future__ import annotations

import math
from pathlib import Path

import jobs
import pytest

from tutelage.recipe.sections import TrainingConfig
from tutelage.training.learning_rate import schedule
from tutelage.training.trainer import Trainer


def test_schedule_values():
    linear = TrainingConfig()
    assert [schedule(linear, s, 16) for s in range(16)] == pytest.approx([1.0] + [1 - i / 15 for i in range(15)])
    cosine = TrainingConfig(schedule="cosine", warmup_ratio=0.25)
    expected = [0.25, 0.5, 0.75, 1.0] + [0.5 * (1 + math.cos(math.pi * i / 12)) for i in range(12)]
    assert [schedule(cosine, s, 16) for s in range(16)] == pytest.approx(expected)
    constant = TrainingConfig(schedule="constant", warmup_ratio=0.125)
    assert [schedule(constant, s, 16) for s in range(16)] == [0.5] + [1.0] * 15
    assert schedule(TrainingConfig(warmup_ratio=0.0), 0, 4) == 1.0
    assert schedule(TrainingConfig(warmup_ratio=1.0), 3, 4) == 1.0


def test_the_optimizer_gets_the_scheduled_rate(tmp_path: Path):
    job = jobs.sft(tmp_path, (9, 6, 60, 7, 30, 5, 12), batch_size=2, epochs=4, learning_rate=1e-3)  # 16 steps
    model = job.student.model
    before = model.lm_head.weight.detach().clone()
    trainer = Trainer(job)
    trainer.step(0)
    # Adam's first step has the size of the full rate in every coordinate with a gradient: the warm-up wastes no step.
    assert float((model.lm_head.weight.detach() - before).abs().max()) == pytest.approx(1e-3, rel=1e-2)
    assert trainer.step(4)["learning_rate"] == pytest.approx(1e-3 * (1 - 3 / 15))
