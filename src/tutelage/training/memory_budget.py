"""How many tokens a micro-batch may have for training to stay within a given amount of device memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.batch import make_micro_batch
from tutelage.data.large.stored import lengths_of
from tutelage.models.sharding import local_part
from tutelage.recipe.sections import TrainingConfig

_PROBES = (2_048, 4_096)  # beyond the tokens at which the loss's own buffers stop growing
_STEP = 256
_SLACK = 0.95  # the allocator's blocks do not fit each other exactly


class MicroBatchBudget:
    """Tokens per micro-batch: `tokens_per_micro_batch`, or on CUDA what `memory_gib` holds, measured once.

    `padding`: the last two arguments of `make_micro_batch`. `measured`: the measured tokens, None without measurement.
    """

    def __init__(
        self, config: TrainingConfig, module: torch.nn.Module, optimizer: Any, padding: tuple[bool, int]
    ) -> None:
        self.config, self.module, self.optimizer, self.padding = config, module, optimizer, padding
        self.device = next(module.parameters()).device
        self.measured: int | None = None

    def tokens(
        self,
        sequences: Sequence[TokenSequence],
        examples: Sequence[TokenSequence],
        trial_pass: Callable[[MicroBatch], object],
    ) -> int:
        """The budget for a step with these `sequences`; `examples`: all training data, for the longest.

        The first call measures, with `trial_pass` for a forward and a backward pass. It comes after sampling, when the
        sampler has its memory. Raises TutelageError if `memory_gib` does not hold the longest sequence.
        """
        if self.config.memory_gib is None or self.device.type != "cuda":
            return self.config.tokens_per_micro_batch
        if self.measured is None:
            weights = sum(local_part(p).nbytes for p in self.module.parameters() if p.requires_grad)
            later = 0 if self.optimizer.state else 2 * weights  # the first step allocates Adam's two moments
            longest = int(max(lengths_of(rows).max(initial=0) for rows in (examples, sequences)))
            limit = int(self.config.memory_gib * 2**30)
            peak_bytes = partial(self._peak_bytes, trial_pass, sequences)
            self.measured = token_budget(peak_bytes, limit, later, longest)
            self.optimizer.zero_grad(set_to_none=True)
        return self.measured

    def _peak_bytes(
        self, trial_pass: Callable[[MicroBatch], object], sequences: Sequence[TokenSequence], tokens: int
    ) -> int:
        """The peak of device memory in a forward and backward pass of `tokens` tokens of these sequences."""
        parts = worst_case(sequences, tokens, self.config.max_length)
        batch = make_micro_batch(parts, [1.0 / tokens] * len(parts), *self.padding).to(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        with torch.random.fork_rng(devices=[self.device]):
            trial_pass(batch)
        return torch.cuda.max_memory_allocated(self.device)


def token_budget(peak_bytes: Callable[[int], int], limit_bytes: int, later_bytes: int, least: int) -> int:
    """The largest micro-batch whose peak stays below 95 % of `limit_bytes`, a multiple of 256 tokens.

    `peak_bytes(tokens)` runs one forward and backward pass of about so many tokens and returns the peak of memory in
    bytes. The peak grows linearly with tokens (activations, packed attention), so two passes give the slope; an earlier
    pass allocates what stays (gradients above all) and is not counted. `later_bytes`: memory that is allocated only
    later (the optimizer's state). `least`: tokens of the longest sequence, which cannot be split.

    Raises TutelageError if even `least` tokens do not fit.
    """
    few, many = _PROBES
    peak_bytes(few)
    low, high = peak_bytes(few), peak_bytes(many)
    slope = max(1.0, (high - low) / (many - few))
    free = _SLACK * limit_bytes - later_bytes - (low - slope * few)
    tokens = int(free / slope)
    if tokens < least:
        need = (low - slope * few + later_bytes + slope * least) / _SLACK
        raise TutelageError(
            f"training.memory_gib: {limit_bytes / 2**30:.1f} GiB do not hold one sequence of {least} tokens, which "
            f"needs about {need / 2**30:.1f}: raise it, lower `training.max_length`, or set "
            f"`gradient_checkpointing: true`"
        )
    return max(least, tokens // _STEP * _STEP)


def worst_case(sequences: Sequence[TokenSequence], tokens: int, longest: int) -> list[TokenSequence]:
    """`tokens` tokens of these sequences in parts of at most `longest` tokens, with loss on every token."""
    ids = torch.cat([s.ids for s in sequences])
    ids = ids.repeat(math.ceil(tokens / len(ids)))[:tokens]
    parts = ids.split(min(tokens, longest))
    return [TokenSequence(i, part, torch.ones(len(part), dtype=torch.bool), 0) for i, part in enumerate(parts)]
