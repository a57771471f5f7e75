"""Attention of one new token per row to its cached keys and values, as a Triton kernel.

Each program handles one row and one key head: it loops over the row's own cached positions (not the longest row's) for
all query heads that share the key head, so that every key and value is read once. If rows × key heads are too few to
fill the device, a row's positions are split among several programs, whose results are then combined.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64
_PROGRAMS = 512  # enough to fill the largest devices
_MAX_SPLITS = 16


def decode_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """softmax(scale · q·k over the first seen[b] positions) · v, [B, H, E] in the query's type.

    query [B, H, E]; key and value [B, H_kv, S, E]; seen int64 [B], at least 1.
    """
    rows, heads, size = query.shape
    kv_heads = key.shape[1]
    splits = max(1, min(_MAX_SPLITS, _PROGRAMS // (rows * kv_heads)))
    query = query.contiguous()
    part_type = query.dtype if splits == 1 else torch.float32
    out = torch.empty((rows, heads, splits, size), dtype=part_type, device=query.device)
    norms = torch.empty((rows, heads, splits), dtype=torch.float32, device=query.device)
    group = heads // kv_heads
    # All heads of a row start together: the engine's first slots have the longest prompts, which should start first.
    _decode_kernel[(kv_heads, rows, splits)](
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
        SPLITS=splits,
        BLOCK=_BLOCK,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=4,
    )
    if splits == 1:
        return out[:, :, 0]
    split_weights = torch.softmax(norms, dim=-1)[..., None]
    return (out * split_weights).sum(2).to(query.dtype)


@triton.jit
def _decode_kernel(
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
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    kv_head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    seen = tl.load(seen_ptr + row).to(tl.int32)
    split_length = tl.cdiv(tl.cdiv(seen, SPLITS), BLOCK) * BLOCK
    begin = split * split_length
    end = tl.minimum(begin + split_length, seen)

    e = tl.arange(0, SIZE_PADDED)
    g = tl.arange(0, GROUP_PADDED)
    head = kv_head * GROUP + g
    in_query = (g[:, None] < GROUP) & (e[None, :] < SIZE)
    query = tl.load(query_ptr + (row * HEADS + head[:, None]) * SIZE + e[None, :], mask=in_query, other=0.0)
    keys = key_ptr + row * key_row + kv_head * key_head
    values = value_ptr + row * value_row + kv_head * value_head

    running_max = tl.full((GROUP_PADDED,), -1.0e30, tl.float32)
    total = tl.zeros((GROUP_PADDED,), tl.float32)
    weighted_sum = tl.zeros((GROUP_PADDED, SIZE_PADDED), tl.float32)
    for start in range(begin, end, BLOCK):
        s = start + tl.arange(0, BLOCK)
        in_split = s < end
        in_bounds = in_split[:, None] & (e[None, :] < SIZE)
        key = tl.load(keys + s[:, None].to(tl.int64) * key_position + e[None, :], mask=in_bounds, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        scores = tl.where(in_split[None, :], scores, -1.0e30)
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        p = tl.exp(scores - new_max[:, None])
        p = tl.where(in_split[None, :], p, 0.0)
        rescale = tl.exp(running_max - new_max)
        value = tl.load(values + s[:, None].to(tl.int64) * value_position + e[None, :], mask=in_bounds, other=0.0)
        weighted_sum = weighted_sum * rescale[:, None] + tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
        total = total * rescale + tl.sum(p, 1)
        running_max = new_max
    denominator = tl.where(total > 0.0, total, 1.0)
    index = (row * HEADS + head) * SPLITS + split
    tl.store(norms_ptr + index, tl.where(total > 0.0, running_max + tl.log(denominator), -1.0e30), mask=g < GROUP)
    tl.store(out_ptr + index[:, None] * SIZE + e[None, :], weighted_sum / denominator[:, None], mask=in_query)
