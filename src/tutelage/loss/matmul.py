"""Matrix products with results in at least float32, whatever the type of the factors."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = (torch.float32, torch.float64)


def operand(tensor: Tensor) -> Tensor:
    """The tensor in the type that `product` multiplies: CPUs have no half-precision product with a float32 result."""
    return tensor.float() if tensor.device.type == "cpu" and tensor.dtype not in _WIDE else tensor


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a [n, k] @ b [k, m] in float32 (float64 stays float64), written to `out` if given."""
    a = operand(a)
    b = b.to(a.dtype)
    if a.dtype in _WIDE:
        return torch.mm(a, b, out=out)
    # A float32 result, not one rounded to half precision: rounding logits to bf16 puts an error of 5 % on a small KL.
    if out is None:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def product_buffer(a: Tensor, rows: int, columns: int) -> Tensor:
    """An uninitialised `out` [rows, columns] for `product(a, …)`."""
    return a.new_empty((rows, columns), dtype=a.dtype if a.dtype in _WIDE else torch.float32)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a @ b, in place, accumulated in the type of `out`."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif a.device.type == "cuda" and a.dtype not in _WIDE and hasattr(torch.ops.aten.addmm, "dtype_out"):
        torch.ops.aten.addmm.dtype_out(out, a, b, out.dtype, out=out)  # in place: no second [V, D] in float32
    else:
        out += product(a, b)
