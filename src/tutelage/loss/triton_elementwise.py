"""The kernels of `triton_sums.py`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_kernel(total, part, count, BLOCK: tl.constexpr):
    """total[:] += part[:]."""
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    valid = lanes < count - begin
    total += begin
    part += begin
    old = tl.load(total + lanes, mask=valid, other=0.0).to(tl.float32)
    new = tl.load(part + lanes, mask=valid, other=0.0).to(tl.float32)
    tl.store(total + lanes, (old + new).to(total.dtype.element_ty), mask=valid)


@triton.jit
def scale_kernel(out, source, scale, count, BLOCK: tl.constexpr):
    """out[:] = source[:] · scale[0]."""
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    valid = lanes < count - begin
    out += begin
    source += begin
    value = tl.load(source + lanes, mask=valid, other=0.0).to(tl.float32) * tl.load(scale).to(tl.float32)
    tl.store(out + lanes, value.to(out.dtype.element_ty), mask=valid)
