"""The rotary embedding as one kernel instead of ten, while the engine decodes.

Attention classes of transformers call the function `apply_rotary_pos_emb` of their own Python module, so it is
exchanged there for the time of a step; training and prefill call what they always did.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NAME = "apply_rotary_pos_emb"
_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Exchange:
    """A Python module's own function, and the fused one that takes its place in `space`, the module's names."""

    space: dict[str, Any]
    own: Callable[..., Any]
    fused: Callable[..., Any]


def fused_rotary(model: Any) -> list[Exchange]:
    """What to exchange so that the model's attention rotates one token per row by one kernel; see `exchanged`.

    A function is recognised by what it computes. One that does something else (rotates neighbours, or a part of a
    head) stays, and so does every call that the kernel does not take.
    """
    names = {base.__module__ for module in model.modules() for base in type(module).__mro__}
    spaces = [vars(sys.modules[name]) for name in sorted(names) if name in sys.modules]
    found = [(space, space[_NAME]) for space in spaces if _NAME in space]
    return [Exchange(space, own, _fused(own)) for space, own in found if _rotates_halves(own)]


@contextlib.contextmanager
def exchanged(exchanges: Sequence[Exchange]) -> Iterator[None]:
    """Within the block the fused functions are in place."""
    for one in exchanges:
        one.space[_NAME] = one.fused
    try:
        yield
    finally:
        for one in exchanges:
            one.space[_NAME] = one.own


def _rotates_halves(function: Callable[..., Any]) -> bool:
    """Whether the function computes what `rotate` does, on random numbers."""
    generator = torch.Generator().manual_seed(0)
    query, key, cos, sin = (torch.randn(s, generator=generator) for s in ((2, 3, 1, 8), (2, 1, 1, 8), *[(2, 1, 8)] * 2))
    try:
        query_out, key_out = function(query, key, cos, sin)
        return all(torch.allclose(out, _rotated(x, cos, sin)) for out, x in ((query_out, query), (key_out, key)))
    except Exception:  # it has other arguments or values; what it raises for ours is unknown
        return False


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]


def _fused(plain: Callable[..., Any]) -> Callable[..., Any]:
    from tutelage.sampling.step_kernels import rotate

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **named: Any) -> Any:
        if rest or named or not _fits(q, k, cos, sin):
            return plain(q, k, cos, sin, *rest, **named)
        return rotate(q, k, cos, sin)

    return apply


def _fits(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `rotate` takes these: one token per row, whole heads, one type."""
    tensors = (q, k, cos, sin)
    if q.ndim != 4 or k.shape != (q.shape[0], k.shape[1], 1, q.shape[3]) or q.shape[2] != 1 or q.shape[3] % 2:
        return False
    if any(x.shape not in ((q.shape[0], 1, q.shape[3]), (1, 1, q.shape[3])) for x in (cos, sin)):
        return False
    return q.dtype in _TYPES and all(x.dtype == q.dtype and x.stride(-1) == 1 for x in tensors)
