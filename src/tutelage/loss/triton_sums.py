"""Adding a gradient to a sum of another type, and scaling one: elementwise kernels at the memory's rate.

torch reads and writes mixed types, and takes a factor that is on the device, one element at a time: on an H200 it
reached about 2 of 4 TB/s.
"""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

_BLOCK = 512  # 4 elements per thread: 16 bytes of float32; with 8, they go through shared memory
_LARGE = 2**20  # elements from which an own kernel gains more than its launch costs


def add_to(total: Tensor, part: Tensor) -> None:
    """total += part, in place, in the type of `total`."""
    if _by_kernel(total, part):
        from tutelage.loss.triton_elementwise import add_kernel

        _launch(add_kernel, total, part)
    else:
        total.add_(part)


def scaled(gradient: Tensor, dtype: torch.dtype, scale: Tensor) -> Tensor:
    """gradient · scale (a scalar tensor), multiplied in float32 at least, as `dtype`; in place if that is its type."""
    out = gradient if gradient.dtype == dtype else torch.empty_like(gradient, dtype=dtype)
    if _by_kernel(gradient, out):
        from tutelage.loss.triton_elementwise import scale_kernel

        _launch(scale_kernel, out, gradient, scale)
        return out
    return torch.mul(gradient, scale.to(gradient.dtype), out=out)


def _by_kernel(a: Tensor, b: Tensor) -> bool:
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    plain = all(type(x) in (Tensor, torch.nn.Parameter) and x.is_contiguous() and x.dtype in kinds for x in (a, b))
    large = a.is_cuda and b.is_cuda and a.numel() >= _LARGE
    return large and plain and a.shape == b.shape and importlib.util.find_spec("triton") is not None


def _launch(kernel: Any, out: Tensor, *operands: Tensor) -> None:
    count = out.numel()
    with torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext():
        kernel[(-(-count // _BLOCK),)](out, *operands, count, BLOCK=_BLOCK)
