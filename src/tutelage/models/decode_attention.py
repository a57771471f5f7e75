"""Attention of one new token a row to its cached keys and values, as a Triton kernel.

Each program has one row and one key head: it walks over the row's own cached positions (never over the longest row's),
and serves all query heads that share the key head, so that every key and value is read once. When there are too few
rows and heads to fill the device, a row's positions are shared out among several programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64
_PROGRAMS = 512  # enough to fill the largest devices
_MOST_PARTS = 16


def decode_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """query [B, H, E], key and value [B, H_kv, S, E], seen [B] ≥ 1 → softmax(scale · q·k over seen) · v, [B, H, E]."""
    rows, heads, size = query.shape
    kv_heads = key.shape[1]
    parts = max(1, min(_MOST_PARTS, _PROGRAMS // (rows * kv_heads)))
    query = query.contiguous()
    out = torch.empty((rows, heads, parts, size), dtype=torch.float32, device=query.device)
    norms = torch.empty((rows, heads, parts), dtype=torch.float32, device=query.device)
    group = heads // kv_heads
    _kernel[(rows, kv_heads, parts)](
        query,
        key,
        value,
        seen,
        out,
        norms,
        scale,
        *key.stride()[:3],
        *value.stride()[:3],
        SIZE=size,
        SIZE_PADDED=max(16, triton.next_power_of_2(size)),
        GROUP=group,
        GROUP_PADDED=max(16, triton.next_power_of_2(group)),
        HEADS=heads,
        PARTS=parts,
        BLOCK=_BLOCK,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=4,
    )
    if parts == 1:
        return out[:, :, 0].to(query.dtype)
    shares = torch.softmax(norms, dim=-1)[..., None]
    return (out * shares).sum(2).to(query.dtype)


@triton.jit
def _kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    seen_ptr,
    out_ptr,
    norms_ptr,
    scale,
    key_row,
    key_head,
    key_position,
    value_row,
    value_head,
    value_position,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    HEADS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1).to(tl.int64)
    part = tl.program_id(2)
    seen = tl.load(seen_ptr + row).to(tl.int32)
    share = tl.cdiv(tl.cdiv(seen, PARTS), BLOCK) * BLOCK
    first = part * share
    last = tl.minimum(first + share, seen)

    e = tl.arange(0, SIZE_PADDED)
    g = tl.arange(0, GROUP_PADDED)
    head = kv_head * GROUP + g
    in_query = (g[:, None] < GROUP) & (e[None, :] < SIZE)
    query = tl.load(query_ptr + (row * HEADS + head[:, None]) * SIZE + e[None, :], mask=in_query, other=0.0)
    keys = key_ptr + row * key_row + kv_head * key_head
    values = value_ptr + row * value_row + kv_head * value_head

    top = tl.full((GROUP_PADDED,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP_PADDED,), tl.float32)
    mixed = tl.zeros((GROUP_PADDED, SIZE_PADDED), tl.float32)
    for start in range(first, last, BLOCK):
        s = start + tl.arange(0, BLOCK)
        inside = s < last
        there = inside[:, None] & (e[None, :] < SIZE)
        key = tl.load(keys + s[:, None].to(tl.int64) * key_position + e[None, :], mask=there, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        scores = tl.where(inside[None, :], scores, -1.0e30)
        new_top = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp(scores - new_top[:, None])
        p = tl.where(inside[None, :], p, 0.0)
        shrink = tl.exp(top - new_top)
        value = tl.load(values + s[:, None].to(tl.int64) * value_position + e[None, :], mask=there, other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
        total = total * shrink + tl.sum(p, 1)
        top = new_top
    some = tl.where(total > 0.0, total, 1.0)
    place = (row * HEADS + head) * PARTS + part
    tl.store(norms_ptr + place, tl.where(total > 0.0, top + tl.log(some), -1.0e30), mask=g < GROUP)
    tl.store(out_ptr + place[:, None] * SIZE + e[None, :], mixed / some[:, None], mask=in_query)
