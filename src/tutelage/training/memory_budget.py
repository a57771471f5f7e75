"""How many tokens a micro-batch may have for training to stay within a given amount of device memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.types import TokenSequence

_PROBES = (2_048, 4_096)  # beyond the tokens at which the loss's own buffers stop growing
_STEP = 256
_SLACK = 0.95  # the allocator's blocks do not fit each other exactly


def token_budget(peak_bytes: Callable[[int], int], limit_bytes: int, later_bytes: int, least: int) -> int:
    """The largest micro-batch whose peak stays below 95 % of `limit_bytes`, a multiple of 256 tokens.

    `peak_bytes(tokens)` runs one forward and backward pass of about so many tokens and returns the most memory held at
    once; the peak grows linearly with tokens (activations, packed attention), so two passes tell the slope. The first
    call is thrown away: it also makes what stays, gradients above all. `later_bytes` are needed later and not there
    yet (the optimizer's state). `least`: tokens of the longest sequence, which cannot be parted.

    Raises TutelageError where even that does not fit.
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


def filled(sequences: Sequence[TokenSequence], tokens: int, longest: int) -> list[TokenSequence]:
    """`tokens` tokens of these sequences in parts of at most `longest`, every token in the loss: the worst case."""
    ids = torch.cat([s.ids for s in sequences])
    ids = ids.repeat(math.ceil(tokens / len(ids)))[:tokens]
    parts = ids.split(min(tokens, longest))
    return [TokenSequence(i, part, torch.ones(len(part), dtype=torch.bool), 0) for i, part in enumerate(parts)]
