"""Attention without padding, registered with transformers under the name `tutelage`.

Training and prefill run on packed sequences: [1, T] tokens of many conversations in a row, each attending only to
itself. Decoding has one query per row and a cache whose rows differ in length. `Packing` and `Decoding` are keyword
arguments that transformers passes from the model's forward down to the attention function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "tutelage"


@dataclass(frozen=True)
class Packing:
    """Boundaries of the S sequences of a packed row: `cu_seqlens` int32 [S + 1] on the device, `lengths` on the host.

    `keys`: the boundaries of keys and values, if sequences have more keys than queries (the queries are their last
    tokens). `longest`: of the lengths.
    """

    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    keys: Packing | None = None
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(self.lengths, default=0))  # here: compiled code would count anew

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device, keys: Packing | None = None) -> Packing:
        """The packing of sequences with `lengths` tokens each, in this order."""
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return Packing(ends.to(device), tuple(lengths), keys)


@dataclass(frozen=True)
class Decoding:
    """One query per row: row b attends to its first `seen[b]` ≥ 1 cached positions."""

    seen: Tensor  # int64 [B]


def register_attention() -> None:
    """Make `attn_implementation="tutelage"` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    decoding: Decoding | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [B, H, T, E], key and value [B, H_kv, S, E] → output [B, T, H, E].

    `decoding`: one query per row against a cache; `packing`: packed sequences (B = 1); neither: plain causal attention.
    """
    device_type = query.device.type
    if torch.is_autocast_enabled(device_type):  # the rotary embedding has made queries and keys float32 again
        query, key, value = (x.to(torch.get_autocast_dtype(device_type)) for x in (query, key, value))
    if decoding is not None:
        return _decode(query, key, value, decoding.seen, scaling), None
    if packing is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    if _has_varlen(query):
        keys = packing.keys or packing
        ends, longest = (packing.cu_seqlens, keys.cu_seqlens), (packing.longest, keys.longest)
        return _varlen(query, key, value, *ends, *longest, scaling), None
    return _segments(query, key, value, packing, scaling), None


def _has_varlen(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def hide_from_compiler() -> None:
    """Let torch.compile take attention as it is: one operation on CUDA, elsewhere code between compiled parts.

    Compiled itself, it would be compiled anew for each micro-batch's lengths.
    """
    global _segments
    torch.compiler.allow_in_graph(_varlen)
    if not getattr(_segments, "_torchdynamo_disable", False):
        hidden: Any = torch.compiler.disable(_segments)
        _segments = hidden


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    longest: int,
    longest_keys: int,
    scaling: float | None,
) -> Tensor:
    """One flash-attention call over all sequences; its causal mask aligns the last query with the last key."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    accepted = _varlen_options()
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in accepted else {"is_causal": True}
    if "scale" in accepted:
        options["scale"] = scaling
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in accepted:
            options["enable_gqa"] = True
        else:  # torch 2.11 needs as many key heads as query heads
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    out = varlen_attn(q, k, v, ends, key_ends, longest, longest_keys, **options)
    assert isinstance(out, Tensor)
    return out[None]


@functools.cache
def _varlen_options() -> frozenset[str]:
    """The parameter names of this torch release's `varlen_attn`; they differ between releases."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _segments(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None) -> Tensor:
    """One attention call per sequence, for CPUs and float32: work grows with Σ L², not with (Σ L)²."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    lengths = (packing.keys or packing).lengths
    parts = zip(query.split(packing.lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    out = []
    for q, k, v in parts:
        queries, keys = q.shape[2], k.shape[2]
        # The queries are the last tokens; `is_causal` would align the first query with the first key.
        mask = None if queries == keys else q.new_ones((queries, keys), dtype=torch.bool).tril(keys - queries)
        out.append(F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling))
    return torch.cat(out, dim=2).transpose(1, 2)


def _decode(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float | None) -> Tensor:
    """query [B, H, 1, E], key and value [B, H_kv, S, E] → [B, 1, H, E].

    The query heads that share a key head are the rows of one matrix product, so keys are read once.
    """
    rows, heads, _, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    if query.is_cuda:
        from tutelage.models.decode_attention import decode_attention

        return decode_attention(query[:, :, 0], key, value, seen, scale)[:, None]
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    scores = torch.matmul(grouped, key.transpose(2, 3)).float() * scale
    unseen = torch.arange(key.shape[2], device=seen.device) >= seen[:, None]
    probabilities = torch.softmax(scores.masked_fill_(unseen[:, None, None], -torch.inf), dim=-1).to(value.dtype)
    return torch.matmul(probabilities, value).reshape(rows, 1, heads, size)
