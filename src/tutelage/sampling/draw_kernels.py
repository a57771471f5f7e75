"""Triton kernels that draw each row's next token from its logits and note it in the engine's state.

`draw_token.choose` and `Engine._draw` are the reference. Here the logits are read once, by blocks of 128 tokens, and
then one block per row again. Both find the token in two steps, a block and a token in it, with running sums in float64;
a token can differ only where the random number lies within rounding of the boundary between two tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 128  # tokens per block, as in draw_token.py
_BLOCKS = 16  # blocks per program


class Rows(Protocol):
    """The state of all slots that a draw reads and changes: an `Engine`. Contiguous, on the logits' device."""

    uniforms: Tensor  # float64 [slots, N]
    limits: Tensor  # int64 [slots]
    written: Tensor  # int64 [slots]
    live: Tensor  # bool [slots]
    ended: Tensor  # bool [slots]
    last: Tensor  # int64 [slots]
    tokens: Tensor  # int64 [slots, N + 1]
    logprobs: Tensor  # float32 [slots, N + 1]


def draw_and_note(logits: Tensor, state: Rows, slots: Tensor, ends: Tensor, temperature: float) -> None:
    """Draw the next token of each of the distinct `slots` int64 [B] from softmax(logits / temperature), note it and its
    log-probability, and mark rows that end; without reading anything back from the device.

    logits float32 [B, V], contiguous. ends: token ids int64 [n], n ≥ 1. temperature > 0.
    """
    count, width = logits.shape
    blocks = triton.cdiv(width, _BLOCK)
    sums, maxima = (torch.empty((count, blocks), dtype=torch.float32, device=logits.device) for _ in range(2))
    _block_kernel[(count, triton.cdiv(blocks, _BLOCKS))](
        logits, sums, maxima, width, blocks, 1.0 / temperature, BLOCK=_BLOCK, BLOCKS=_BLOCKS, num_warps=4
    )
    _draw_kernel[(count,)](
        logits,
        sums,
        maxima,
        slots,
        state.uniforms,
        state.limits,
        state.written,
        state.live.view(torch.uint8),
        state.ended.view(torch.uint8),
        state.last,
        state.tokens,
        state.logprobs,
        ends,
        width,
        blocks,
        state.uniforms.shape[1],
        len(ends),
        1.0 / temperature,
        BLOCK=_BLOCK,
        BLOCKS_PADDED=triton.next_power_of_2(blocks),
        ENDS_PADDED=triton.next_power_of_2(len(ends)),
        num_warps=4,
    )


@triton.jit
def _block_kernel(
    logits_ptr, sums_ptr, maxima_ptr, width, blocks, inverse_temperature, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """Per block of a row: the maximum of z = logits / temperature, and Σ exp(z − maximum)."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    token = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    z = tl.load(logits_ptr + row * width + token, mask=token < width, other=-float("inf")) * inverse_temperature
    maximum = tl.max(z, 1)
    shift = tl.where(maximum == -float("inf"), 0.0, maximum)  # a block without any probability has the sum 0
    tl.store(sums_ptr + row * blocks + block, tl.sum(tl.exp(z - shift[:, None]), 1), mask=block < blocks)
    tl.store(maxima_ptr + row * blocks + block, maximum, mask=block < blocks)


@triton.jit
def _draw_kernel(
    logits_ptr,
    sums_ptr,
    maxima_ptr,
    slots_ptr,
    uniforms_ptr,
    limits_ptr,
    written_ptr,
    live_ptr,
    ended_ptr,
    last_ptr,
    tokens_ptr,
    logprobs_ptr,
    ends_ptr,
    width,
    blocks,
    new_tokens,
    ends_count,
    inverse_temperature,
    BLOCK: tl.constexpr,
    BLOCKS_PADDED: tl.constexpr,
    ENDS_PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row)
    written = tl.load(written_ptr + slot)
    limit = tl.load(limits_ptr + slot)
    live = tl.load(live_ptr + slot).to(tl.int32)
    ended = tl.load(ended_ptr + slot).to(tl.int32)
    uniform = tl.load(uniforms_ptr + slot * new_tokens + tl.minimum(written, new_tokens - 1))

    b = tl.arange(0, BLOCKS_PADDED)
    maxima = tl.load(maxima_ptr + row * blocks + b, mask=b < blocks, other=-float("inf"))
    sums = tl.load(sums_ptr + row * blocks + b, mask=b < blocks, other=0.0)
    top = tl.max(maxima, 0)
    mass = sums.to(tl.float64) * tl.exp(maxima - top).to(tl.float64)
    total = tl.sum(mass, 0)
    block, target = _first_above(mass, b, uniform * total)

    block_top = tl.load(maxima_ptr + row * blocks + block)
    t = tl.arange(0, BLOCK)
    token = block * BLOCK + t
    z = tl.load(logits_ptr + row * width + token, mask=token < width, other=-float("inf")) * inverse_temperature
    in_block = tl.exp(z - block_top).to(tl.float64) * tl.exp(block_top - top).to(tl.float64)
    place, target = _first_above(in_block, t, target)
    chosen = (block * BLOCK + place).to(tl.int64)
    logprob = tl.sum(tl.where(t == place, z, 0.0), 0) - top - tl.log(total.to(tl.float32))

    e = tl.arange(0, ENDS_PADDED)
    ends = tl.load(ends_ptr + e, mask=e < ends_count, other=-1)
    at_end = tl.max((ends == chosen).to(tl.int32), 0) * live
    column = slot * (new_tokens + 1) + tl.where(live != 0, written, new_tokens)
    written += live
    tl.store(tokens_ptr + column, chosen)
    tl.store(logprobs_ptr + column, logprob)
    tl.store(last_ptr + slot, chosen)
    tl.store(written_ptr + slot, written)
    tl.store(ended_ptr + slot, (ended | at_end).to(tl.uint8))
    tl.store(live_ptr + slot, tl.where(written < limit, live * (1 - at_end), 0).to(tl.uint8))


@triton.jit
def _first_above(mass, index, target):
    """The first index with mass whose running sum exceeds the target, and the target minus the sum before that index.

    If rounding leaves none, it is the last index with mass; 0 if there is no mass at all.
    """
    running = tl.cumsum(mass, 0)
    first = tl.min(tl.where((mass > 0.0) & (running > target), index, 1073741824), 0)
    last = tl.max(tl.where(mass > 0.0, index, 0), 0)
    chosen = tl.minimum(first, last)
    return chosen, target - tl.sum(tl.where(index == chosen, running - mass, 0.0), 0)
