"""Matrix products whose results are at least float32, whatever the type of the factors."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = (torch.float32, torch.float64)


def factor(tensor: Tensor) -> Tensor:
    """The tensor as `product` multiplies it: a CPU has no half-precision product with a float32 result."""
    return tensor.float() if tensor.device.type == "cpu" and tensor.dtype not in _WIDE else tensor


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b in float32 (float64 for float64), into `out` if given."""
    a = factor(a)
    b = b.to(a.dtype)
    if a.dtype in _WIDE:
        return torch.mm(a, b, out=out)
    # Not rounded to half precision and back: rounding logits to bf16 costs 5 % of a small KL.
    if out is None:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def product_buffer(a: Tensor, rows: int, columns: int) -> Tensor:
    """An `out` for products of rows of `a`."""
    return a.new_empty((rows, columns), dtype=a.dtype if a.dtype in _WIDE else torch.float32)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a @ b, accumulated in out's type."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif a.device.type == "cuda" and a.dtype not in _WIDE and hasattr(torch.ops.aten.addmm, "dtype_out"):
        torch.ops.aten.addmm.dtype_out(out, a, b, out.dtype, out=out)  # in place: no second [V, D] in float32
    else:
        out += product(a, b)
