"""Drawing tokens from distributions, with random numbers given by the caller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.common.types import Head
from tutelage.loss.chunk import chunk_logits

_BLOCK = 128


def draw(probabilities: Tensor, uniforms: Tensor, top_p: float = 1.0) -> Tensor:
    """Inverse-CDF sampling: probabilities [B, V], uniforms float64 [B] in [0, 1) → tokens int64 [B].

    With top_p < 1, only the smallest set of most likely tokens whose total probability reaches top_p can be drawn. A
    token of probability 0 is never drawn.
    """
    if top_p >= 1.0:
        return _inverse_cdf(probabilities, uniforms)
    ranked, tokens = probabilities.sort(-1, descending=True)
    cumulative = ranked.cumsum(-1, dtype=torch.float64)
    kept = torch.where(cumulative - ranked < top_p, ranked, 0.0)  # the mass before this token is less than top_p
    return tokens.gather(-1, _inverse_cdf(kept, uniforms)[:, None]).squeeze(-1)


def _inverse_cdf(mass: Tensor, uniforms: Tensor) -> Tensor:
    """Find a block of 128 tokens, then a token in it, so that no running sum over all of V is written to memory."""
    rows, size = mass.shape
    if size % _BLOCK:
        mass = F.pad(mass, (0, _BLOCK - size % _BLOCK))
    blocks = mass.view(rows, -1, _BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    block, remaining = _first_above(sums, uniforms[:, None].double() * sums.sum(-1, keepdim=True))
    in_block = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1)
    offset, _ = _first_above(in_block.double(), remaining)
    return (block * _BLOCK + offset).squeeze(-1)


def _first_above(mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Per row, the first index whose running sum exceeds target [B, 1], and target minus the sum before that index.

    The target is clamped to [0, total), so that rounding cannot choose an index without mass.
    """
    cumulative = mass.cumsum(-1)
    target = torch.minimum(target.clamp(min=0.0), cumulative[:, -1:] * (1.0 - 1e-15))
    index = torch.searchsorted(cumulative, target, right=True)
    return index, target - (cumulative.gather(-1, index) - mass.gather(-1, index))


def uniform_table(seeds: Sequence[int], count: int) -> Tensor:
    """Random numbers in [0, 1), float64 [B, count]. Row b depends only on seeds[b]; a longer row begins alike."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def choose(hidden: Tensor, head: Head, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Next tokens int64 [B] and their log-probabilities [B] (see `sampler.py`), from last hidden states [B, D]."""
    logits = chunk_logits(hidden, head)
    if temperature not in (0.0, 1.0):
        logits /= temperature
    norm = logits.logsumexp(-1)
    tokens = logits.argmax(-1) if temperature == 0.0 else draw((logits - norm[:, None]).exp_(), uniforms, top_p)
    return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1) - norm
