"""The learning rate over the steps of a run."""

from __future__ import annotations

import math

from tutelage.recipe.sections import TrainingConfig


def schedule(config: TrainingConfig, step: int, total: int) -> float:
    """The factor on the learning rate at optimizer step `step` (from 0): warm-up, then decay towards 0.

    No step is spent at 0: with one warm-up step the first already has the full rate.
    """
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    rest = (step - warmup) / max(1, total - warmup)
    if config.schedule == "constant":
        return 1.0
    return 1.0 - rest if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))
