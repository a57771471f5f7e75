"""The loss kernel's passes over logits that stay in registers, so that each is read from memory once.

A program's columns are PIECES tensors, handled one after the other: intermediate results then take the registers of one
piece, not of all. Pass 2 leaves in the place of the two logits what pass 3 needs, so that pass 3 is a multiplication
and addition per logit. All columns are relative to the program's first.
"""

# ruff: noqa: RUF005, SIM109 (Triton compiles neither `*` in a tuple nor `in`)
from __future__ import annotations

import triton
import triton.language as tl

from tutelage.loss.triton_logits import EVICT_FIRST, logits, soft_cap_slope, store_slope
from tutelage.loss.triton_math import (
    FORWARD,
    JSD,
    LOG2E,
    REVERSE,
    add_terms,
    add_two,
    larger_two,
    results_of_lanes,
    sum_lanes,
)


@triton.jit
def hold(model, length, PIECES: tl.constexpr, SIZE: tl.constexpr):
    """The program's logits, as PIECES tensors [SIZE]; those from column `length` on are past the row's end."""
    if length >= PIECES * SIZE:  # nearly all programs; what a mask hides would cost an instruction per logit
        kept = _loaded(model, length, PIECES, SIZE, False)
    else:
        kept = _loaded(model, length, PIECES, SIZE, True)
    return kept


@triton.jit
def _loaded(model, length, PIECES: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr):
    lanes = tl.arange(0, SIZE)
    kept = ()
    for i in tl.static_range(PIECES):
        columns = lanes + i * SIZE
        kept = kept + (logits(model, columns, columns < length if MASKED else None, EVICT_FIRST),)
    return kept


@triton.jit
def norms_of_held(s_kept, t_kept, TEACHER: tl.constexpr, PIECES: tl.constexpr):
    """Pass 1: maximum and Σ exp(z − maximum) for student and teacher."""
    s_top, t_top = s_kept[0], t_kept[0]
    for i in tl.static_range(1, PIECES):
        s_top, t_top = tl.maximum(s_top, s_kept[i]), tl.maximum(t_top, t_kept[i])
    if TEACHER:
        s_max, t_max = tl.reduce((s_top, t_top), 0, larger_two)
        s_sum, t_sum = tl.reduce((_powers(s_kept, s_max, PIECES), _powers(t_kept, t_max, PIECES)), 0, add_two)
    else:
        s_max = tl.max(s_top, 0)
        s_sum = tl.sum(_powers(s_kept, s_max, PIECES), 0)
        t_max, t_sum = s_max, s_sum
    return s_max, s_sum, t_max, t_sum


@triton.jit
def _powers(kept, maximum, PIECES: tl.constexpr):
    """Σ exp(z − maximum) over the pieces, per lane."""
    shift = maximum * LOG2E
    total = tl.exp2(tl.fma(kept[0], LOG2E, -shift))
    for i in tl.static_range(1, PIECES):
        total += tl.exp2(tl.fma(kept[i], LOG2E, -shift))
    return total * tl.exp2(-tl.fma(maximum, LOG2E, -shift))  # what rounding took from `shift`


@triton.jit
def first_of_held(kept, maximum, begin, width, PIECES: tl.constexpr, SIZE: tl.constexpr):
    """The first column of the row, in these pieces, whose logit is `maximum`."""
    lanes = tl.arange(0, SIZE)
    first = tl.full([SIZE], width, tl.int32)
    for i in tl.static_range(PIECES):
        first = tl.minimum(first, tl.where(kept[i] == maximum, begin + i * SIZE + lanes, width))
    return tl.min(first, 0)


@triton.jit
def sums_of_held(
    s_kept, t_kept, s_log, t_log, shift, gradient, steep, hard, s_outer, label, length, beta, one_minus_beta,
    S_MAP: tl.constexpr, TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, PIECES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Pass 2: the results of `sum_lanes`, and two tuples for pass 3: slopes = steep · S · r + cross-entropy's, and S.

    r is log2(M/S) or δ, and pass 3's gradient slopes − steep · (Σ S·r) · S. Where the gradient has no such sum, it is
    written here.
    """
    lanes = tl.arange(0, SIZE)
    zero = tl.zeros([SIZE], tl.float32)
    sums = (zero, zero, zero, zero, zero, zero, zero)
    slopes, shares = (), ()
    for i in tl.static_range(PIECES):
        zs, columns = s_kept[i], lanes + i * SIZE
        sums, ps, surplus, product = add_terms(
            sums, zs, t_kept[i], s_log, t_log, shift, beta, one_minus_beta, TEACHER, KIND, HALF, STATISTICS
        )
        if GRADIENT:
            slope = zero
            if KIND == FORWARD:
                slope = steep * surplus
            elif KIND == JSD or KIND == REVERSE:
                slope = steep * product
            if HARD:
                slope += hard * (ps - tl.where(columns == label, 1.0, 0.0))
            if S_MAP == 2:
                cap = soft_cap_slope(zs, s_outer)
                slope, ps = slope * cap, ps * cap
            if KIND == JSD or KIND == REVERSE:
                slopes, shares = slopes + (slope,), shares + (ps,)
            else:
                store_slope(gradient, columns, columns < length, slope)
    results = results_of_lanes(sums, beta, one_minus_beta, KIND)
    return sum_lanes(results, TEACHER, KIND, STATISTICS), slopes, shares


@triton.jit
def write_held(slopes, shares, scaled_mean, gradient, length, PIECES: tl.constexpr, SIZE: tl.constexpr):
    """Pass 3: the gradient, slopes − scaled_mean · S."""
    lanes = tl.arange(0, SIZE)
    for i in tl.static_range(PIECES):
        columns = lanes + i * SIZE
        store_slope(gradient, columns, columns < length, tl.fma(shares[i], -scaled_mean, slopes[i]))
