"""The loss kernel's passes over logits that are read in every pass, block after block, alternately from both ends."""

from __future__ import annotations

import triton
import triton.language as tl

from tutelage.loss.triton_logits import DEFAULT_CACHE, EVICT_FIRST, PAST_END, logits, soft_cap_slope, store_slope
from tutelage.loss.triton_math import (
    FORWARD,
    JSD,
    add_terms,
    add_two,
    larger_two,
    log_mixture,
    log_ratio,
    log_share,
    results_of_lanes,
    running_max_sum,
    smaller_two,
    sum_lanes,
    sum_of_powers,
)

_STAGES = tl.constexpr(3)  # pipeline stages: loads run two blocks ahead


@triton.jit
def _pair(student, teacher, columns, valid, TEACHER: tl.constexpr, EVICTION: tl.constexpr):
    """Logits of student and teacher; without a teacher, the student's twice."""
    zs = logits(student, columns, valid, EVICTION)
    zt = zs
    if TEACHER:
        zt = logits(teacher, columns, valid, EVICTION)
    return zs, zt


@triton.jit
def norms_of_read(
    student, teacher, begin, length, width, TEACHER: tl.constexpr, PLACE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Pass 1, left to right, for both models: maximum, Σ exp(z − maximum), with PLACE the maximum's first column."""
    lanes = tl.arange(0, BLOCK)
    s_top = tl.full([BLOCK], PAST_END, tl.float32)
    s_total = tl.zeros([BLOCK], tl.float32)
    s_place = tl.zeros([BLOCK], tl.int32)
    t_top, t_total, t_place = s_top, s_total, s_place
    for offset in tl.range(0, length, BLOCK, num_stages=_STAGES):
        start = begin + offset
        columns = start + lanes
        zs, zt = _pair(student, teacher, columns, columns < width, TEACHER, DEFAULT_CACHE)
        s_top, s_total, s_place = running_max_sum(zs, start, s_top, s_total, s_place, PLACE)
        if TEACHER:
            t_top, t_total, t_place = running_max_sum(zt, start, t_top, t_total, t_place, PLACE)
    s_first, t_first = width, width
    if TEACHER:
        s_max, t_max = tl.reduce((s_top, t_top), 0, larger_two)
        powers = (sum_of_powers(s_total, s_top, s_max), sum_of_powers(t_total, t_top, t_max))
        s_sum, t_sum = tl.reduce(powers, 0, add_two)
        if PLACE:
            places = tl.where(s_top == s_max, s_place + lanes, width), tl.where(t_top == t_max, t_place + lanes, width)
            s_first, t_first = tl.reduce(places, 0, smaller_two)
    else:
        s_max = tl.max(s_top, 0)
        s_sum = tl.sum(sum_of_powers(s_total, s_top, s_max), 0)
        t_max, t_sum = s_max, s_sum
    return s_max, s_sum, t_max, t_sum, s_first, t_first


@triton.jit
def sums_of_read(
    student, teacher, s_log, t_log, shift, gradient, steep, hard, label, begin, length, width, beta, one_minus_beta,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 2, right to left: the results of `sum_lanes`.

    With GRADIENT it also writes the gradient, which must not need them.
    """
    lanes = tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.float32)
    a, b, c, d, e, f, g = zero, zero, zero, zero, zero, zero, zero
    for offset in tl.range(0, length, BLOCK, num_stages=_STAGES):
        columns = begin + (length - BLOCK - offset) + lanes
        valid = columns < width
        zs, zt = _pair(student, teacher, columns, valid, TEACHER, DEFAULT_CACHE)
        sums, ps, surplus, _ = add_terms(
            (a, b, c, d, e, f, g), zs, zt, s_log, t_log, shift, beta, one_minus_beta, TEACHER, KIND, HALF, STATISTICS
        )
        a, b, c, d, e, f, g = sums
        if GRADIENT:
            slope = zero
            if KIND == FORWARD:
                slope = steep * surplus
            if HARD:
                slope += hard * (ps - tl.where(columns == label, 1.0, 0.0))
            if student[4] == 2:
                slope *= soft_cap_slope(zs, student[3])
            store_slope(gradient, columns, valid, slope)
    results = results_of_lanes((a, b, c, d, e, f, g), beta, one_minus_beta, KIND)
    return sum_lanes(results, TEACHER, KIND, STATISTICS)


@triton.jit
def slopes_of_read(
    student, teacher, s_log, shift, gradient, steep, hard, label, begin, length, width, beta, one_minus_beta, mean,
    KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 3, left to right: the gradient, steep · S·(r − mean) with r = log2(M/S) or δ, and cross-entropy's."""
    lanes = tl.arange(0, BLOCK)
    for offset in tl.range(0, length, BLOCK, num_stages=_STAGES):
        columns = begin + offset + lanes
        valid = columns < width
        zs, zt = _pair(student, teacher, columns, valid, True, EVICT_FIRST)
        delta, e, x = log_ratio(zs, zt, shift)
        ps = tl.exp2(log_share(zs, s_log))
        r = delta
        if KIND == JSD:
            large_ratio, small_ratio = log_mixture(delta, e, x, beta, one_minus_beta, HALF)
            r = tl.where(delta >= 0.0, large_ratio, small_ratio)
        slope = steep * ps * (r - mean)
        if HARD:
            slope += hard * (ps - tl.where(columns == label, 1.0, 0.0))
        if student[4] == 2:
            slope *= soft_cap_slope(zs, student[3])
        store_slope(gradient, columns, valid, slope)
