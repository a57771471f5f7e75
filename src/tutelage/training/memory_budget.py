"""How many tokens a micro-batch may have for training to stay within a given amount of device memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.progress import tell
from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.batch import make_micro_batch
from tutelage.data.large.stored import lengths_of
from tutelage.models.sharding import local_part
from tutelage.recipe.sections import TrainingConfig
from tutelage.training.optimizer import state_bytes

_PROBES = (2_048, 4_096)  # beyond the tokens at which the loss's own buffers stop growing
_STEP = 256
_SLACK = 0.95  # the allocator's blocks do not fit each other exactly


class MicroBatchBudget:
    """Tokens per micro-batch: `tokens_per_micro_batch`, or on CUDA what `memory_gib` holds, measured once.

    With `gradient_checkpointing: auto` it also decides, once, whether activations of `model` are recomputed.

    `padding`: the last two arguments of `make_micro_batch`. `measured`: the measured tokens, None without measurement.
    `any_rank`: whether a flag is set on any rank.
    """

    def __init__(
        self,
        config: TrainingConfig,
        module: torch.nn.Module,
        optimizer: Any,
        padding: tuple[bool, int],
        model: Any = None,
        any_rank: Callable[[bool], bool] = bool,
    ) -> None:
        self.config, self.module, self.optimizer, self.padding = config, module, optimizer, padding
        self.model, self.any_rank = model, any_rank
        self.device = next(module.parameters()).device
        self.undecided = config.gradient_checkpointing == "auto" and self.device.type == "cuda"
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
        if self.device.type != "cuda" or (self.config.memory_gib is None and not self.undecided):
            return self.config.tokens_per_micro_batch
        if self.measured is None or self.undecided:
            weights = sum(local_part(p).nbytes for p in self.module.parameters() if p.requires_grad)
            # the first step allocates Adam's two moments
            width = next(p.dtype.itemsize for p in self.module.parameters() if p.requires_grad)
            later = 0 if self.optimizer.state else int(state_bytes(self.config.optimizer, weights, width))
            longest = int(max(lengths_of(rows).max(initial=0) for rows in (examples, sequences)))
            peak_bytes = partial(self._peak_bytes, trial_pass, sequences)
            if self.undecided:
                wanted = max(self.config.tokens_per_micro_batch, longest)
                self._decide(peak_bytes, later, wanted)
            if self.config.memory_gib is None:
                return self.config.tokens_per_micro_batch
            self.measured = token_budget(peak_bytes, int(self.config.memory_gib * 2**30), later, longest)
            self.optimizer.zero_grad(set_to_none=True)
        return self.measured

    def _decide(self, peak_bytes: Callable[[int], int], later: int, wanted: int) -> None:
        """Recompute activations if a micro-batch of `wanted` tokens does not fit without it, on any rank."""
        self.undecided = False
        free, _ = torch.cuda.mem_get_info(self.device)
        limit = int((self.config.memory_gib or 0) * 2**30) or free + torch.cuda.memory_reserved(self.device)
        fits = holds(peak_bytes, limit, later, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        if self.any_rank(not fits):
            recompute_activations(self.model)
            tell(
                f"a micro-batch of {wanted} tokens does not fit into {limit / 2**30:.0f} GiB: activations are computed "
                "again in the backward pass (`gradient_checkpointing: auto`)"
            )

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
    at_none, slope = _line(peak_bytes)
    tokens = int((_SLACK * limit_bytes - later_bytes - at_none) / slope)
    if tokens < least:
        need = (at_none + later_bytes + slope * least) / _SLACK
        raise TutelageError(
            f"training.memory_gib: {limit_bytes / 2**30:.1f} GiB do not hold one sequence of {least} tokens, which "
            f"needs about {need / 2**30:.1f}: raise it, lower `training.max_length`, or set "
            f"`gradient_checkpointing: true`"
        )
    return max(least, tokens // _STEP * _STEP)


def holds(peak_bytes: Callable[[int], int], limit_bytes: int, later_bytes: int, tokens: int) -> bool:
    """Whether the peak of a pass of `tokens` tokens stays below 95 % of `limit_bytes`; arguments as in `token_budget`.

    A pass that runs out of memory is no reason to stop, unless other ranks wait for this one.
    """
    try:
        at_none, slope = _line(peak_bytes)
    except torch.OutOfMemoryError:
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise
        torch.cuda.empty_cache()
        return False
    return at_none + slope * tokens + later_bytes <= _SLACK * limit_bytes


def recompute_activations(model: Any) -> None:
    """Let a transformers model compute activations again in the backward pass, layer by layer."""
    model.gradient_checkpointing_enable({"use_reentrant": False})


def _line(peak_bytes: Callable[[int], int]) -> tuple[float, float]:
    """Peak memory as bytes without tokens, and bytes per token."""
    few, many = _PROBES
    peak_bytes(few)
    low, high = peak_bytes(few), peak_bytes(many)
    slope = max(1.0, (high - low) / (many - few))
    return low - slope * few, slope


def worst_case(sequences: Sequence[TokenSequence], tokens: int, longest: int) -> list[TokenSequence]:
    """`tokens` tokens of these sequences in parts of at most `longest` tokens, with loss on every token."""
    ids = torch.cat([s.ids for s in sequences])
    ids = ids.repeat(math.ceil(tokens / len(ids)))[:tokens]
    parts = ids.split(min(tokens, longest))
    return [TokenSequence(i, part, torch.ones(len(part), dtype=torch.bool), 0) for i, part in enumerate(parts)]
