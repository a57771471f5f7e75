"""The learning-rate schedule."""

from __future__ import annotations

import math

from tutelage.recipe.sections import TrainingConfig


def schedule(config: TrainingConfig, step: int, total: int) -> float:
    """The factor on the learning rate at optimizer step `step` (from 0) of `total`: linear warm-up, then decay to 0.

    No step has the factor 0: with one warm-up step, the first step has the full rate.
    """
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    rest = (step - warmup) / max(1, total - warmup)
    if config.schedule == "constant":
        return 1.0
    return 1.0 - rest if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))
