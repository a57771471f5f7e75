"""The numbers of a step for its log, summed over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage.common.types import MicroBatch, TokenSequence, TokenStats


def over_ranks(device: torch.device, world: int, value: float, how: Any = dist.ReduceOp.SUM) -> float:
    """All-reduce `value` over `world` ranks (`how`: the sum by default)."""
    if world == 1:
        return float(value)
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, how)
    return float(tensor)


class Totals:
    """Sums of per-token values over the micro-batches of a step, kept on the device until the end of the step.

    `ce_weight`: the α of `Job`; if it is not 0, the two terms of the loss are reported as well.
    """

    _NAMES = ("cross_entropy", "forward_kl", "reverse_kl", "student_entropy", "teacher_entropy", "agreement")

    def __init__(self, device: torch.device, ce_weight: float = 0.0) -> None:
        self.ce_weight = ce_weight
        # float64 [11]: the sums of `_NAMES`, the number of response tokens, the loss, its two terms, its error's bound
        self.sums = torch.zeros(len(self._NAMES) + 5, dtype=torch.float64, device=device)

    def add(self, batch: MicroBatch, loss: Tensor, stats: TokenStats) -> None:
        """Add a micro-batch: its loss, and its per-token values where the weight is not 0."""
        counted = (batch.weights > 0).float()
        columns = [getattr(stats, name) for name in self._NAMES]
        sums = [
            torch.full_like(counted.sum(), math.nan) if c is None else torch.dot(c.float(), counted) for c in columns
        ]
        # In float64, since the small term is a difference of large ones.
        hard = torch.zeros_like(stats.loss) if batch.sampled else stats.cross_entropy
        soft = (stats.loss.double() - self.ce_weight * hard) / (1.0 - self.ce_weight)
        terms = [torch.dot(term.double(), batch.weights.double()) for term in (hard, soft)]
        bound = torch.full_like(terms[0], math.nan)
        if stats.error_bound is not None:
            bound = torch.dot(stats.error_bound.double(), batch.weights.double())
        self.sums += torch.stack([*(s.double() for s in sums), counted.sum(), loss.detach().float(), *terms, bound])

    def values(self, world: int) -> dict[str, Any]:
        """Means per response token over all `world` ranks (None without a teacher), and the loss that was optimised.

        With α: `ce_loss` and `kd_loss`, where loss = α · ce_loss + (1 − α) · kd_loss. From a teacher's likeliest tokens
        alone, `loss_error_bound`: how much larger the exact loss can be.
        """
        if world > 1:
            dist.all_reduce(self.sums)
        *sums, tokens, loss, hard, soft, bound = self.sums.tolist()
        means = {n: None if math.isnan(s) else s / tokens for n, s in zip(self._NAMES, sums, strict=True)}
        terms = {"ce_loss": hard, "kd_loss": soft} if self.ce_weight else {}
        terms |= {} if math.isnan(bound) else {"loss_error_bound": bound}
        return {"loss": loss, **terms, **means, "response_tokens": int(tokens)}


def sequence_metrics(
    sequences: Sequence[TokenSequence],
    seconds: float,
    sampling_seconds: float,
    over_ranks: Callable[[float], float],
) -> dict[str, Any]:
    """A step's on-policy share, mean length and cut share of the student's responses, tokens and speed.

    `sequences`: those of this rank; `seconds`: of the whole step; `over_ranks`: the sum over all ranks.
    """
    written = [s for s in sequences if s.author == "student"]
    tokens = over_ranks(sum(len(s.ids) for s in sequences))
    written_tokens = over_ranks(sum(len(s.ids) - s.prompt_length for s in written))
    count = over_ranks(len(written))
    return {
        "on_policy": count / over_ranks(len(sequences)),
        "sampled_length": written_tokens / count if count else None,
        "sampled_cut": over_ranks(sum(s.cut for s in written)) / count if count else None,
        "tokens": int(tokens),
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "sampled_tokens_per_s": written_tokens / sampling_seconds if count else None,
    }
