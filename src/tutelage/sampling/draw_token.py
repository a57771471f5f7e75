"""Drawing tokens from distributions with numbers that are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.loss.chunk import chunk_logits

_BLOCK = 128


def draw(probabilities: Tensor, uniforms: Tensor, top_p: float = 1.0) -> Tensor:
    """Inverse-CDF sampling: probabilities [B, V], uniforms [B] in [0, 1) → tokens [B].

    With top_p < 1 only the smallest set of most likely tokens whose mass reaches top_p can be drawn.
    A token of probability 0 is never drawn.
    """
    if top_p >= 1.0:
        return _inverse(probabilities, uniforms)
    ranked, tokens = probabilities.sort(-1, descending=True)
    cumulative = ranked.cumsum(-1, dtype=torch.float64)
    kept = torch.where(cumulative - ranked < top_p, ranked, 0.0)  # mass before this token is still short of top_p
    return tokens.gather(-1, _inverse(kept, uniforms)[:, None]).squeeze(-1)


def _inverse(mass: Tensor, uniforms: Tensor) -> Tensor:
    """First a block of 128 tokens, then a token in it: the running sum over all of V is never written to memory."""
    rows, size = mass.shape
    if size % _BLOCK:
        mass = F.pad(mass, (0, _BLOCK - size % _BLOCK))
    blocks = mass.view(rows, -1, _BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    block, rest = _first_above(sums, uniforms[:, None].double() * sums.sum(-1, keepdim=True))
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1)
    place, _ = _first_above(inside.double(), rest)
    return (block * _BLOCK + place).squeeze(-1)


def _first_above(mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose running sum lies above target [B, 1], and what of target is left before it.

    Rounding must not choose an index without mass, so the target is kept inside [0, total).
    """
    cumulative = mass.cumsum(-1)
    target = torch.minimum(target.clamp(min=0.0), cumulative[:, -1:] * (1.0 - 1e-15))
    index = torch.searchsorted(cumulative, target, right=True)
    return index, target - (cumulative.gather(-1, index) - mass.gather(-1, index))


def uniform_table(seeds: Sequence[int], count: int) -> Tensor:
    """[B, count] float64 in [0, 1); row b depends on seeds[b] alone, and a longer row begins like a shorter one."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def choose(hidden: Tensor, head: Any, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B] from last hidden states [B, D] (see `sampler.py`)."""
    logits = chunk_logits(hidden, head)
    if temperature not in (0.0, 1.0):
        logits /= temperature
    norm = logits.logsumexp(-1)
    chosen = logits.argmax(-1) if temperature == 0.0 else draw((logits - norm[:, None]).exp_(), uniforms, top_p)
    return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - norm
