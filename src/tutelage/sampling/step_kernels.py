"""Triton kernels for what a decoding step does between its matrix products, to one new token per row."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS = 8  # heads per program


def write_to_slots(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> None:
    """keys[rows[b], :, positions[b]] = key[b, :, 0] for each b, and the same for values, in one kernel.

    key and value [B, H, 1, E] with adjacent elements of a head; keys and values [slots, H, S, E], contiguous; rows and
    positions int64 [B], contiguous, and within bounds: they are not checked.
    """
    count, heads, _, size = key.shape
    _write_kernel[(count, triton.cdiv(heads, _HEADS))](
        key,
        value,
        keys,
        values,
        rows,
        positions,
        *key.stride()[:2],
        *value.stride()[:2],
        *keys.stride()[:3],
        HEADS=heads,
        SIZE=size,
        BLOCK=_HEADS,
        SIZE_PADDED=triton.next_power_of_2(size),
        num_warps=2,
    )


@triton.jit
def _write_kernel(
    key_ptr,
    value_ptr,
    keys_ptr,
    values_ptr,
    rows_ptr,
    positions_ptr,
    key_row,
    key_head,
    value_row,
    value_head,
    slot_stride,
    head_stride,
    position_stride,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[:, None].to(tl.int64)
    e = tl.arange(0, SIZE_PADDED)[None, :]
    in_bounds = (head < HEADS) & (e < SIZE)
    slot, position = tl.load(rows_ptr + row), tl.load(positions_ptr + row)
    place = slot * slot_stride + head * head_stride + position * position_stride + e
    key = tl.load(key_ptr + row * key_row + head * key_head + e, mask=in_bounds)
    tl.store(keys_ptr + place, key, mask=in_bounds)
    value = tl.load(value_ptr + row * value_row + head * value_head + e, mask=in_bounds)
    tl.store(values_ptr + place, value, mask=in_bounds)


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """x · cos + (−x₂, x₁) · sin for both x = (x₁, x₂) = query [B, H, 1, E] and key [B, H_kv, 1, E], in one kernel.

    cos and sin [B or 1, 1, E], of the type of query and key: float32 or a half precision. E is even, and the elements
    of a head are adjacent in each tensor. The result is computed in float32 and rounded once; transformers rounds each
    product and their sum.
    """
    count, heads, _, size = query.shape
    kv_heads = key.shape[1]
    out, key_out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key))
    _rotary_kernel[(count, triton.cdiv(heads, _HEADS) + triton.cdiv(kv_heads, _HEADS))](
        query,
        key,
        cos,
        sin,
        out,
        key_out,
        *query.stride()[:2],
        *key.stride()[:2],
        *(x.expand(count, 1, size).stride(0) for x in (cos, sin)),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=size // 2,
        BLOCK=_HEADS,
        HALF_PADDED=triton.next_power_of_2(size // 2),
        num_warps=2,
    )
    return out, key_out


@triton.jit
def _rotary_kernel(
    query_ptr,
    key_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    key_out_ptr,
    query_row,
    query_head,
    key_row,
    key_head,
    cos_row,
    sin_row,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF_PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    query_programs: tl.constexpr = (HEADS + BLOCK - 1) // BLOCK
    cos, sin = cos_ptr + row * cos_row, sin_ptr + row * sin_row
    if program < query_programs:
        head = program * BLOCK + tl.arange(0, BLOCK)
        query, out = query_ptr + row * query_row, out_ptr + row * HEADS * 2 * HALF
        _rotate_heads(query, out, cos, sin, head, query_head, 2 * HALF, HEADS, HALF, HALF_PADDED)
    else:
        head = (program - query_programs) * BLOCK + tl.arange(0, BLOCK)
        key, key_out = key_ptr + row * key_row, key_out_ptr + row * KV_HEADS * 2 * HALF
        _rotate_heads(key, key_out, cos, sin, head, key_head, 2 * HALF, KV_HEADS, HALF, HALF_PADDED)


@triton.jit
def _rotate_heads(
    x_ptr,
    out_ptr,
    cos_ptr,
    sin_ptr,
    head,
    head_stride,
    out_stride,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PADDED: tl.constexpr,
):
    """Rotate some heads of one row of x [HEADS, 2 · HALF]; `out_stride`: elements between two heads of `out`."""
    head = head[:, None].to(tl.int64)
    e = tl.arange(0, HALF_PADDED)[None, :]
    in_half = e < HALF
    in_bounds = (head < HEADS) & in_half
    low = tl.load(x_ptr + head * head_stride + e, mask=in_bounds, other=0.0).to(tl.float32)
    high = tl.load(x_ptr + head * head_stride + e + HALF, mask=in_bounds, other=0.0).to(tl.float32)
    cos_low = tl.load(cos_ptr + e, mask=in_half, other=0.0).to(tl.float32)
    cos_high = tl.load(cos_ptr + e + HALF, mask=in_half, other=0.0).to(tl.float32)
    sin_low = tl.load(sin_ptr + e, mask=in_half, other=0.0).to(tl.float32)
    sin_high = tl.load(sin_ptr + e + HALF, mask=in_half, other=0.0).to(tl.float32)
    place = out_ptr + head * out_stride + e
    tl.store(place, low * cos_low - high * sin_low, mask=in_bounds)
    tl.store(place + HALF, high * cos_high + low * sin_high, mask=in_bounds)


def rotate_into_slots(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
) -> Tensor:
    """`rotate` and `write_to_slots` in one kernel, for row b to slot b; returns the rotated query [B, H, E].

    query [B, H, E], key and value [B, H_kv, E]; the others as there.
    """
    count, heads, size = query.shape
    kv_heads = key.shape[1]
    out = torch.empty((count, heads, size), dtype=query.dtype, device=query.device)
    _rotate_into_slots_kernel[(count, triton.cdiv(heads, _HEADS) + 2 * triton.cdiv(kv_heads, _HEADS))](
        query,
        key,
        value,
        cos,
        sin,
        out,
        keys,
        values,
        positions,
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        *(x.expand(count, 1, size).stride(0) for x in (cos, sin)),
        *keys.stride()[:3],
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=size // 2,
        BLOCK=_HEADS,
        HALF_PADDED=triton.next_power_of_2(size // 2),
        num_warps=2,
    )
    return out


@triton.jit
def _rotate_into_slots_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    keys_ptr,
    values_ptr,
    positions_ptr,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    cos_row,
    sin_row,
    slot_stride,
    head_stride,
    position_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF_PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    query_programs: tl.constexpr = (HEADS + BLOCK - 1) // BLOCK
    kv_programs: tl.constexpr = (KV_HEADS + BLOCK - 1) // BLOCK
    cos, sin = cos_ptr + row * cos_row, sin_ptr + row * sin_row
    if program < query_programs:
        head = program * BLOCK + tl.arange(0, BLOCK)
        query, out = query_ptr + row * query_row, out_ptr + row * HEADS * 2 * HALF
        _rotate_heads(query, out, cos, sin, head, query_head, 2 * HALF, HEADS, HALF, HALF_PADDED)
    else:
        place = row * slot_stride + tl.load(positions_ptr + row) * position_stride
        if program < query_programs + kv_programs:
            head = (program - query_programs) * BLOCK + tl.arange(0, BLOCK)
            key, keys = key_ptr + row * key_row, keys_ptr + place
            _rotate_heads(key, keys, cos, sin, head, key_head, head_stride, KV_HEADS, HALF, HALF_PADDED)
        else:
            copied = ((program - query_programs - kv_programs) * BLOCK + tl.arange(0, BLOCK))[:, None].to(tl.int64)
            e = tl.arange(0, 2 * HALF_PADDED)[None, :]
            in_bounds = (copied < KV_HEADS) & (e < 2 * HALF)
            value = tl.load(value_ptr + row * value_row + copied * value_head + e, mask=in_bounds)
            tl.store(values_ptr + place + copied * head_stride + e, value, mask=in_bounds)


def add_and_norm(stream: Tensor, new: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """(stream + new, its RMS norm), both [B, D] in their type, in one kernel.

    norm: has `weight` [D] and `variance_epsilon`. The sum is rounded before it is normalised, as transformers does; the
    norm is computed in float32 and rounded once.
    """
    count, width = stream.shape
    total, out = torch.empty_like(stream), torch.empty_like(stream)
    _add_and_norm_kernel[(count,)](
        stream,
        new,
        norm.weight,
        total,
        out,
        stream.stride(0),
        new.stride(0),
        total.stride(0),
        norm.variance_epsilon,
        WIDTH=width,
        PADDED=triton.next_power_of_2(width),
        num_warps=8 if width > 1_024 else 4,
    )
    return total, out


@triton.jit
def _add_and_norm_kernel(
    stream_ptr,
    new_ptr,
    weight_ptr,
    total_ptr,
    out_ptr,
    stream_row,
    new_row,
    out_row,
    epsilon,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, PADDED)
    in_bounds = d < WIDTH
    stream = tl.load(stream_ptr + row * stream_row + d, mask=in_bounds, other=0.0)
    new = tl.load(new_ptr + row * new_row + d, mask=in_bounds, other=0.0)
    total = (stream.to(tl.float32) + new.to(tl.float32)).to(stream.dtype)
    tl.store(total_ptr + row * out_row + d, total, mask=in_bounds)
    x = total.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / WIDTH + epsilon)
    weight = tl.load(weight_ptr + d, mask=in_bounds, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * out_row + d, x * scale * weight, mask=in_bounds)


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """gate · sigmoid(gate) · up, [B, I], computed in float32 and rounded once, in one kernel; rows may be apart."""
    count, width = gate.shape
    out = torch.empty((count, width), dtype=gate.dtype, device=gate.device)
    block = 1_024
    _silu_times_kernel[(count, triton.cdiv(width, block))](
        gate, up, out, gate.stride(0), up.stride(0), WIDTH=width, BLOCK=block, num_warps=4
    )
    return out


@triton.jit
def _silu_times_kernel(gate_ptr, up_ptr, out_ptr, gate_row, up_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_bounds = i < WIDTH
    gate = tl.load(gate_ptr + row * gate_row + i, mask=in_bounds, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_row + i, mask=in_bounds, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * WIDTH + i, gate / (1.0 + tl.exp(-gate)) * up, mask=in_bounds)
