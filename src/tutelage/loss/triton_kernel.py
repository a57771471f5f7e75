"""Values, statistics and gradient of a chunk of logits in one Triton kernel, with `PROGRAMS` programs per row (token).

The inputs are the raw products hidden @ weight.T. They are only read: bias, scale, soft cap and temperature are applied
to each logit as it is loaded. The kernel makes two or three passes over a row of V logits:

  1. the maximum, its index, and Σ exp, for both models;
  2. the sums from which every divergence and statistic follows;
  3. the gradient, if it depends on one of those sums (0 < β ≤ 1); otherwise pass 2 writes it.

If a program's columns fit into one block (IN_REGISTERS), they stay in registers and each logit is read once. Otherwise
the passes alternate in direction, so that the end of one pass is still in the cache when the next begins.

With several programs per row, each writes its partial results of passes 1 and 2 to the row's scratch memory, waits for
the row's other programs, and combines the results of all. The device starts programs in order, so the programs of a row
run at the same time.

In names, s is the student and t the teacher; a slope is the gradient of the value with respect to a logit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tutelage.loss.triton_math import (
    add_seven,
    add_three,
    join_lanes,
    join_lanes_of_both,
    log_mixture,
    log_ratio,
    running_max_sum,
)

_PAST_END = tl.constexpr(-1e30)  # the logit of a column past the row's end; finite, so that differences are finite too
# Pipeline stages: loads run two blocks ahead. Logits that are read for the last time, and the gradient, must not evict
# what the next pass will read.
_STAGES = tl.constexpr(3)
_DEFAULT_CACHE, _EVICT_FIRST, _STREAMING = tl.constexpr(""), tl.constexpr("evict_first"), tl.constexpr(".cs")
JSD, FORWARD, REVERSE = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _logits(
    products, biases, columns, valid, inner, outer,
    MAP: tl.constexpr, BIASED: tl.constexpr, EVICTION: tl.constexpr = _DEFAULT_CACHE,
):  # fmt: skip
    """Logits from raw products: (product + bias) · inner, or outer · tanh of that."""
    z = tl.load(products + columns, mask=valid, other=0.0, eviction_policy=EVICTION)
    if BIASED:
        z += tl.load(biases + columns, mask=valid, other=0.0)
    if MAP >= 1:
        z *= inner
    if MAP == 2:
        z = outer * (1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0))
    return tl.where(valid, z, _PAST_END)


@triton.jit
def _pair(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    columns, valid, TEACHER: tl.constexpr, EVICTION: tl.constexpr = _DEFAULT_CACHE,
):  # fmt: skip
    """Logits of student and teacher; without a teacher, the student's twice."""
    zs = _logits(s, s_bias, columns, valid, s_inner, s_outer, S_MAP, S_BIASED, EVICTION)
    zt = zs
    if TEACHER:
        zt = _logits(t, t_bias, columns, valid, t_inner, t_outer, T_MAP, T_BIASED, EVICTION)
    return zs, zt


@triton.jit
def _store_gradient(gradient, columns, valid, slope, z, factor, outer, MAP: tl.constexpr):
    """Write factor · slope, the gradient with respect to the raw product, in the buffer's type."""
    if MAP == 2:  # derivative of tanh
        t = tl.maximum(z / outer, -1.0)  # a column past the end would overflow
        slope *= 1.0 - t * t
    tl.store(gradient + columns, (slope * factor).to(gradient.dtype.element_ty), mask=valid, cache_modifier=_STREAMING)


@triton.jit
def _norms(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    s_kept, t_kept, begin, length, width, TEACHER: tl.constexpr, IN_REGISTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 1, left to right: maximum, Σ exp(z − maximum) and index of the maximum, for student and teacher."""
    lanes = tl.arange(0, BLOCK)
    s_top = tl.full([BLOCK], _PAST_END, tl.float32)
    s_total = tl.zeros([BLOCK], tl.float32)
    s_place = tl.zeros([BLOCK], tl.int32)
    t_top, t_total, t_place = s_top, s_total, s_place
    if IN_REGISTERS:
        s_top, s_total, s_place = s_kept, s_total + 1.0, s_place + begin
        t_top, t_total, t_place = t_kept, s_total, s_place
    else:
        for offset in tl.range(0, length, BLOCK, num_stages=_STAGES):
            start = begin + offset
            columns = start + lanes
            zs, zt = _pair(
                s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
                columns, columns < width, TEACHER,
            )  # fmt: skip
            if TEACHER:
                t_top, t_total, t_place = running_max_sum(zt, start, t_top, t_total, t_place)
            s_top, s_total, s_place = running_max_sum(zs, start, s_top, s_total, s_place)
    # Student and teacher in one reduction, here and below: each reduction synchronises the program's warps twice.
    if TEACHER:
        s_max, s_sum, s_first, t_max, t_sum, t_first = join_lanes_of_both(
            s_top, s_total, s_place, t_top, t_total, t_place, lanes, width
        )
    else:
        s_max, s_sum, s_first = join_lanes(s_top, s_total, s_place, lanes, width)
        t_max, t_sum, t_first = s_max, s_sum, s_first
    return s_max, s_sum, s_first, t_max, t_sum, t_first


@triton.jit
def _sums(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    s_kept, t_kept, s_log, t_log, shift, gradient, factor, label, begin, length, width,
    cross_entropy, divergence, beta, one_minus_beta,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, IN_REGISTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 2, right to left: Σ T−S, Σ S·δ, Σ T·δ, Σ S·log(M/S), Σ T·log(M/T), Σ S·log S, Σ T·log T.

    With GRADIENT it also writes the gradient, which must not depend on those sums.
    """
    lanes = tl.arange(0, BLOCK)
    gap = tl.zeros([BLOCK], tl.float32)
    s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = gap, gap, gap, gap, gap, gap
    for offset in tl.range(0, length, BLOCK, num_stages=_STAGES):
        columns = begin + (length - BLOCK - offset) + lanes
        valid = columns < width
        zs, zt = s_kept, t_kept
        if not IN_REGISTERS:
            zs, zt = _pair(
                s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
                columns, valid, TEACHER,
            )  # fmt: skip
        log_s = zs - s_log
        if TEACHER:
            delta, e, x = log_ratio(zs, zt, shift)
            log_t = zt - t_log
            larger = tl.exp(tl.maximum(log_s, log_t))
            smaller = larger + x * larger
            student_larger = delta >= 0.0
            ps, pt = tl.where(student_larger, larger, smaller), tl.where(student_larger, smaller, larger)
            surplus = tl.where(student_larger, x, -x) * larger
            gap += surplus
            if STATISTICS or KIND == REVERSE:
                s_delta += ps * delta
            if STATISTICS or KIND == FORWARD:
                t_delta += pt * delta
            if KIND == JSD:
                y = log_mixture(delta, e, x, beta, one_minus_beta, HALF)
                s_ratio += ps * (y + tl.maximum(-delta, 0.0))
                t_ratio += pt * (y + tl.maximum(delta, 0.0))
            if STATISTICS:
                t_own += pt * log_t
        else:
            ps = tl.exp(log_s)
        if STATISTICS:
            s_own += ps * log_s
        if GRADIENT:
            slope = tl.zeros([BLOCK], tl.float32)
            if KIND == FORWARD:
                slope -= divergence * surplus
            if HARD:
                slope += cross_entropy * (ps - tl.where(columns == label, 1.0, 0.0))
            _store_gradient(gradient, columns, valid, slope, zs, factor, s_outer, S_MAP)
    a, b, c, d, e, f, g = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if STATISTICS:
        a, b, c, d, e, f, g = tl.reduce((gap, s_delta, t_delta, s_ratio, t_ratio, s_own, t_own), 0, add_seven)
    elif KIND == JSD:
        a, d, e = tl.reduce((gap, s_ratio, t_ratio), 0, add_three)
    elif TEACHER:
        a, b, c = tl.reduce((gap, s_delta, t_delta), 0, add_three)
    return a, b, c, d, e, f, g


@triton.jit
def _slopes(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    s_kept, t_kept, s_log, shift, gradient, factor, label, begin, length, width,
    cross_entropy, divergence, beta, one_minus_beta, mean,
    KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr, IN_REGISTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 3, left to right: gradient of JSD_β, (β−1)·S·(r − Σ S·r) with r = log(M/S), or of KL(S‖T), S·(δ − Σ S·δ).

    `mean` is the sum in brackets. It cancels an error common to all r or δ; KL(S‖M) or KL(S‖T) in its place would not.
    """
    lanes = tl.arange(0, BLOCK)
    for offset in tl.range(0, length, BLOCK, num_stages=_STAGES):
        columns = begin + offset + lanes
        valid = columns < width
        zs, zt = s_kept, t_kept
        if not IN_REGISTERS:
            zs, zt = _pair(
                s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
                columns, valid, True, _EVICT_FIRST,
            )  # fmt: skip
        delta, e, x = log_ratio(zs, zt, shift)
        ps = tl.exp(zs - s_log)
        if KIND == JSD:
            y = log_mixture(delta, e, x, beta, one_minus_beta, HALF)
            slope = -one_minus_beta * divergence * ps * (y + tl.maximum(-delta, 0.0) - mean)
        else:
            slope = divergence * ps * (delta - mean)
        if HARD:
            slope += cross_entropy * (ps - tl.where(columns == label, 1.0, 0.0))
        _store_gradient(gradient, columns, valid, slope, zs, factor, s_outer, S_MAP)


@triton.jit
def _row_barrier(arrived, expected):
    """Wait until `expected` programs of the row have arrived; each can then read what all of them wrote before."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1)
    while tl.atomic_add(arrived, 0) < expected:
        pass
    tl.debug_barrier()


@triton.jit
def _publish(scratch, ENTRY: tl.constexpr, program, value, PROGRAMS: tl.constexpr):
    """Write this program's partial result to the row's scratch memory."""
    tl.store(scratch + ENTRY * PROGRAMS + program, value.to(tl.float32))  # indices are exact up to 2²⁴


@triton.jit
def _read_all(scratch, ENTRY: tl.constexpr, PROGRAMS: tl.constexpr):
    """The partial results of the row's programs, [PROGRAMS]; bypasses the L1 cache, which may hold stale values."""
    return tl.load(scratch + ENTRY * PROGRAMS + tl.arange(0, PROGRAMS), cache_modifier=".cg")


@triton.jit
def _join_programs(scratch, ENTRY: tl.constexpr, width, PROGRAMS: tl.constexpr):
    """`join_lanes` over the programs of a row; maximum, sum and index are three consecutive entries."""
    maxima, sums = _read_all(scratch, ENTRY, PROGRAMS), _read_all(scratch, ENTRY + 1, PROGRAMS)
    indices, lanes = _read_all(scratch, ENTRY + 2, PROGRAMS).to(tl.int32), tl.arange(0, PROGRAMS)
    return join_lanes(maxima, sums, indices - lanes, lanes, width)


@triton.jit(do_not_specialize=["count"])  # otherwise a short last chunk compiles the kernel again
def loss_kernel(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    labels, weights, values, statistics, gradient, scratch, arrived,
    factor, count, width, cross_entropy, divergence, beta, one_minus_beta,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    VALUES: tl.constexpr, STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr, IN_REGISTERS: tl.constexpr,
):  # fmt: skip
    """One program's part of a row: values[row], statistics[0..5, row], and gradient[row, :] times weights[row].

    KIND is the divergence (0: none); HARD: the loss contains the label's cross-entropy; `factor` is d logit / d product
    without the soft cap. For PROGRAMS > 1: scratch [count, 13, PROGRAMS], and arrived [count], zeros at the start.
    """
    row = (tl.program_id(0) // PROGRAMS).to(tl.int64)  # row · width may exceed 2³¹
    program = tl.program_id(0) % PROGRAMS
    columns_per_program = tl.cdiv(tl.cdiv(width, BLOCK), PROGRAMS) * BLOCK
    begin = tl.minimum(program * columns_per_program, width)
    scratch += row * 13 * PROGRAMS
    arrived += row
    s += row * width
    t += row * width
    label = tl.load(labels + row)
    if IN_REGISTERS:
        length: tl.constexpr = BLOCK
        columns = begin + tl.arange(0, BLOCK)
        s_kept, t_kept = _pair(
            s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
            columns, columns < width, TEACHER, _EVICT_FIRST,
        )  # fmt: skip
    else:
        length = tl.cdiv(tl.minimum(columns_per_program, width - begin), BLOCK) * BLOCK
        s_kept, t_kept = 0.0, 0.0
    s_max, s_sum, s_first, t_max, t_sum, t_first = _norms(
        s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
        s_kept, t_kept, begin, length, width, TEACHER, IN_REGISTERS, BLOCK,
    )  # fmt: skip
    if PROGRAMS > 1:
        _publish(scratch, 0, program, s_max, PROGRAMS)
        _publish(scratch, 1, program, s_sum, PROGRAMS)
        _publish(scratch, 2, program, s_first, PROGRAMS)
        _publish(scratch, 3, program, t_max, PROGRAMS)
        _publish(scratch, 4, program, t_sum, PROGRAMS)
        _publish(scratch, 5, program, t_first, PROGRAMS)
        _row_barrier(arrived, PROGRAMS)
        s_max, s_sum, s_first = _join_programs(scratch, 0, width, PROGRAMS)
        t_max, t_sum, t_first = _join_programs(scratch, 3, width, PROGRAMS)
    s_norm, t_norm = tl.log(s_sum), tl.log(t_sum)
    s_log, t_log, shift = s_max + s_norm, t_max + t_norm, (s_max - t_max) + (s_norm - t_norm)
    hard = (s_max - _logits(s, s_bias, label, label < width, s_inner, s_outer, S_MAP, S_BIASED)) + s_norm
    if GRADIENT:
        gradient += row * width
        factor *= tl.load(weights + row)
    ONE_PASS: tl.constexpr = KIND != JSD and KIND != REVERSE
    gap, s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if TEACHER or STATISTICS or GRADIENT:
        gap, s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = _sums(
            s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
            s_kept, t_kept, s_log, t_log, shift, gradient, factor, label, begin, length, width,
            cross_entropy, divergence, beta, one_minus_beta,
            TEACHER, KIND, HALF, HARD, STATISTICS, GRADIENT and ONE_PASS, IN_REGISTERS, BLOCK,
        )  # fmt: skip
        if PROGRAMS > 1:
            _publish(scratch, 6, program, gap, PROGRAMS)
            _publish(scratch, 7, program, s_delta, PROGRAMS)
            _publish(scratch, 8, program, t_delta, PROGRAMS)
            _publish(scratch, 9, program, s_ratio, PROGRAMS)
            _publish(scratch, 10, program, t_ratio, PROGRAMS)
            _publish(scratch, 11, program, s_own, PROGRAMS)
            _publish(scratch, 12, program, t_own, PROGRAMS)
            _row_barrier(arrived, 2 * PROGRAMS)
            gap, s_delta = tl.sum(_read_all(scratch, 6, PROGRAMS), 0), tl.sum(_read_all(scratch, 7, PROGRAMS), 0)
            t_delta, s_ratio = tl.sum(_read_all(scratch, 8, PROGRAMS), 0), tl.sum(_read_all(scratch, 9, PROGRAMS), 0)
            t_ratio, s_own = tl.sum(_read_all(scratch, 10, PROGRAMS), 0), tl.sum(_read_all(scratch, 11, PROGRAMS), 0)
            t_own = tl.sum(_read_all(scratch, 12, PROGRAMS), 0)
    forward, reverse = -t_delta - gap, s_delta + gap
    s_mixed, t_mixed = beta * gap - s_ratio, -one_minus_beta * gap - t_ratio
    if GRADIENT and not ONE_PASS:
        _slopes(
            s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
            s_kept, t_kept, s_log, shift, gradient, factor, label, begin, length, width,
            cross_entropy, divergence, beta, one_minus_beta,
            s_ratio if KIND == JSD else s_delta, KIND, HALF, HARD, IN_REGISTERS, BLOCK,
        )  # fmt: skip
    if program == 0:
        if VALUES:
            value = cross_entropy * hard if HARD else 0.0
            if KIND == JSD:
                value += divergence * (beta * t_mixed + one_minus_beta * s_mixed)
            elif KIND == FORWARD:
                value += divergence * forward
            elif KIND == REVERSE:
                value += divergence * reverse
            tl.store(values + row, value)
        if STATISTICS:
            tl.store(statistics + row, hard)
            tl.store(statistics + 3 * count + row, -s_own)
            if TEACHER:
                tl.store(statistics + count + row, forward)
                tl.store(statistics + 2 * count + row, reverse)
                tl.store(statistics + 4 * count + row, -t_own)
                tl.store(statistics + 5 * count + row, tl.where(s_first == t_first, 1.0, 0.0))
