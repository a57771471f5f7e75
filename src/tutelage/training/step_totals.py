"""What a step adds up over its micro-batches and ranks, for the log."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage.common.types import MicroBatch, TokenStats


def over_ranks(device: torch.device, world: int, value: float, how: Any = dist.ReduceOp.SUM) -> float:
    """The sum (or what `how` says) of the `world` ranks' numbers."""
    if world == 1:
        return float(value)
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, how)
    return float(tensor)


class Totals:
    """Sums of per-token values over a batch, kept on the device until the end of the step."""

    _NAMES = ("cross_entropy", "forward_kl", "reverse_kl", "student_entropy", "teacher_entropy", "agreement")

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(self._NAMES) + 2, dtype=torch.float64, device=device)  # …, tokens, loss

    def add(self, batch: MicroBatch, loss: Tensor, stats: TokenStats) -> None:
        live = (batch.weights > 0).float()
        columns = [getattr(stats, name) for name in self._NAMES]
        sums = [torch.full_like(live.sum(), math.nan) if c is None else torch.dot(c.float(), live) for c in columns]
        self.sums += torch.stack([*sums, live.sum(), loss.detach().float()]).double()

    def values(self, world: int) -> dict[str, Any]:
        """Means over the response tokens of all `world` ranks, and the loss as it was optimised."""
        if world > 1:
            dist.all_reduce(self.sums)
        *sums, tokens, loss = self.sums.tolist()
        means = {n: None if math.isnan(s) else s / tokens for n, s in zip(self._NAMES, sums, strict=True)}
        return {"loss": loss, **means, "response_tokens": int(tokens)}
