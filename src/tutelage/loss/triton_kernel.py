"""Values, statistics and gradient of a chunk of logits in one Triton kernel, with `PROGRAMS` programs per row (token).

The inputs are the raw products hidden @ weight.T. They are only read: bias, scale, soft cap and temperature are applied
to each logit as it is loaded. The kernel makes two or three passes over a row of V logits:

  1. the maximum and Σ exp, for both models;
  2. the sums from which every divergence and statistic follows;
  3. the gradient, if it depends on one of those sums (0 < β ≤ 1); otherwise pass 2 writes it.

If a program's columns fit into one block (IN_REGISTERS), they stay in registers (`triton_held.py`). Otherwise the
passes alternate in direction, so that the end of one pass is still in the cache when the next begins
(`triton_read.py`).

With several programs per row, each writes its partial results of passes 1 and 2 to the row's scratch memory, waits for
the row's other programs, and combines the results of all. After pass 2, only what pass 3 needs is combined by all; the
rest is program 0's. The device starts programs in order, so the programs of a row run at the same time.

In names, s is the student and t the teacher; a slope is the gradient of the value with respect to a logit.
"""

# ruff: noqa: SIM109 (Triton does not compile `in`)
from __future__ import annotations

import triton
import triton.language as tl

from tutelage.loss.triton_held import first_of_held, hold, norms_of_held, sums_of_held, write_held
from tutelage.loss.triton_logits import DEFAULT_CACHE, logits, starting_at, steepness
from tutelage.loss.triton_math import (
    FORWARD,
    JSD,
    LN2,
    LOG2E,
    REVERSE,
    add_two,
    larger_two,
    sum_lanes,
    sum_of_powers,
)
from tutelage.loss.triton_read import norms_of_read, slopes_of_read, sums_of_read

SCRATCH = tl.constexpr(12)  # entries per row and program: four norms, six results, two indices


@triton.jit
def _row_barrier(arrived, expected, waits):
    """Wait until `expected` programs of the row have arrived; each can then read what all of them wrote before.

    A program that does not wait must not read.
    """
    tl.debug_barrier()
    tl.atomic_add(arrived, 1)
    if waits:
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
def _join_norms(scratch, PROGRAMS: tl.constexpr):
    """Maximum and Σ exp(z − maximum) of student and teacher over the row's programs."""
    s_tops, s_sums = _read_all(scratch, 0, PROGRAMS), _read_all(scratch, 1, PROGRAMS)
    t_tops, t_sums = _read_all(scratch, 2, PROGRAMS), _read_all(scratch, 3, PROGRAMS)
    s_max, t_max = tl.reduce((s_tops, t_tops), 0, larger_two)
    powers = (sum_of_powers(s_sums, s_tops, s_max), sum_of_powers(t_sums, t_tops, t_max))
    s_sum, t_sum = tl.reduce(powers, 0, add_two)
    return s_max, s_sum, t_max, t_sum


@triton.jit
def _publish_results(
    scratch, program, results, TEACHER: tl.constexpr, KIND: tl.constexpr, STATISTICS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Those that `sum_lanes` has summed."""
    forward, reverse, s_entropy, t_entropy, mixed, mean = results
    if KIND == FORWARD or (STATISTICS and TEACHER):
        _publish(scratch, 4, program, forward, PROGRAMS)
    if KIND == REVERSE or (STATISTICS and TEACHER):
        _publish(scratch, 5, program, reverse, PROGRAMS)
    if STATISTICS:
        _publish(scratch, 6, program, s_entropy, PROGRAMS)
        _publish(scratch, 7, program, t_entropy, PROGRAMS)
    if KIND == JSD:
        _publish(scratch, 8, program, mixed, PROGRAMS)
    if KIND == JSD or KIND == REVERSE:
        _publish(scratch, 9, program, mean, PROGRAMS)


@triton.jit
def _join_results(scratch, TEACHER: tl.constexpr, KIND: tl.constexpr, STATISTICS: tl.constexpr, PROGRAMS: tl.constexpr):
    """Their sums over the row's programs; an entry that was not published is not used either."""
    parts = (
        _read_all(scratch, 4, PROGRAMS),
        _read_all(scratch, 5, PROGRAMS),
        _read_all(scratch, 6, PROGRAMS),
        _read_all(scratch, 7, PROGRAMS),
        _read_all(scratch, 8, PROGRAMS),
        _read_all(scratch, 9, PROGRAMS),
    )
    return sum_lanes(parts, TEACHER, KIND, STATISTICS)


@triton.jit(do_not_specialize=["count"])  # otherwise a short last chunk compiles the kernel again
def loss_kernel(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    labels, weights, values, statistics, gradient, scratch, arrived,
    factor, count, width, cross_entropy, divergence, beta, one_minus_beta,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    VALUES: tl.constexpr, STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
    PIECES: tl.constexpr, PROGRAMS: tl.constexpr, IN_REGISTERS: tl.constexpr,
):  # fmt: skip
    """One program's part of a row: values[row], statistics[0..5, row], and gradient[row, :] times weights[row].

    KIND is the divergence (0: none); HARD: the loss contains the label's cross-entropy; `factor` is d logit / d product
    without the soft cap. For PROGRAMS > 1: scratch [count, SCRATCH, PROGRAMS], and arrived [count], zeros at the start.
    """
    NEEDS_MEAN: tl.constexpr = GRADIENT and (KIND == JSD or KIND == REVERSE)
    AGREEMENT: tl.constexpr = STATISTICS and TEACHER
    SIZE: tl.constexpr = BLOCK // PIECES
    row = (tl.program_id(0) // PROGRAMS).to(tl.int64)  # row · width may exceed 2³¹
    program = tl.program_id(0) % PROGRAMS
    scratch += row * SCRATCH * PROGRAMS
    arrived += row
    student = (s + row * width, s_bias, s_inner, s_outer, S_MAP, S_BIASED)
    teacher = (t + row * width, t_bias, t_inner, t_outer, T_MAP, T_BIASED)
    label = tl.load(labels + row).to(tl.int32)
    s_first, t_first = width, width
    if IN_REGISTERS:
        begin = program * BLOCK
        length = width - begin
        s_kept = hold(starting_at(student, begin), length, PIECES, SIZE)
        t_kept = s_kept
        if TEACHER:
            t_kept = hold(starting_at(teacher, begin), length, PIECES, SIZE)
        s_top, s_sum, t_top, t_sum = norms_of_held(s_kept, t_kept, TEACHER, PIECES)
    else:
        columns_per_program = tl.cdiv(tl.cdiv(width, BLOCK), PROGRAMS) * BLOCK
        begin = tl.minimum(program * columns_per_program, width)
        length = tl.cdiv(tl.minimum(columns_per_program, width - begin), BLOCK) * BLOCK
        s_top, s_sum, t_top, t_sum, s_first, t_first = norms_of_read(
            student, teacher, begin, length, width, TEACHER, AGREEMENT, BLOCK
        )
    s_max, t_max = s_top, t_top
    if PROGRAMS > 1:
        _publish(scratch, 0, program, s_top, PROGRAMS)
        _publish(scratch, 1, program, s_sum, PROGRAMS)
        _publish(scratch, 2, program, t_top, PROGRAMS)
        _publish(scratch, 3, program, t_sum, PROGRAMS)
        _row_barrier(arrived, PROGRAMS, True)
        s_max, s_sum, t_max, t_sum = _join_norms(scratch, PROGRAMS)
    s_norm, t_norm = tl.log2(s_sum), tl.log2(t_sum)
    s_log, t_log = (s_max, s_norm), (t_max, t_norm)
    shift = (s_max - t_max) * LOG2E + (s_norm - t_norm)
    s_label = logits(student, label, label < width, DEFAULT_CACHE)
    hard = (s_max - s_label) + s_norm * LN2
    if GRADIENT:
        gradient += row * width
        factor *= tl.load(weights + row)
    steep = steepness(factor, divergence, one_minus_beta, KIND)
    hard_factor = cross_entropy * factor
    if AGREEMENT and IN_REGISTERS:  # most programs do not hold a maximum
        if s_top == s_max:
            s_first = first_of_held(s_kept, s_max, begin, width, PIECES, SIZE)
        if t_top == t_max:
            t_first = first_of_held(t_kept, t_max, begin, width, PIECES, SIZE)
    if IN_REGISTERS:
        results, slopes, shares = sums_of_held(
            s_kept, t_kept, s_log, t_log, shift, gradient + begin, steep, hard_factor, s_outer, label - begin, length,
            beta, one_minus_beta, S_MAP, TEACHER, KIND, HALF, HARD, STATISTICS, GRADIENT, PIECES, SIZE,
        )  # fmt: skip
    else:
        if TEACHER or STATISTICS or GRADIENT:
            results = sums_of_read(
                student, teacher, s_log, t_log, shift, gradient, steep, hard_factor, label, begin, length, width,
                beta, one_minus_beta, TEACHER, KIND, HALF, HARD, STATISTICS, GRADIENT and not NEEDS_MEAN, BLOCK,
            )  # fmt: skip
        else:
            results = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        if AGREEMENT:
            s_first, t_first = tl.where(s_top == s_max, s_first, width), tl.where(t_top == t_max, t_first, width)
    if PROGRAMS > 1 and (TEACHER or STATISTICS):
        _publish_results(scratch, program, results, TEACHER, KIND, STATISTICS, PROGRAMS)
        if AGREEMENT:
            _publish(scratch, 10, program, s_first, PROGRAMS)
            _publish(scratch, 11, program, t_first, PROGRAMS)
        _row_barrier(arrived, 2 * PROGRAMS, NEEDS_MEAN or program == 0)
    if NEEDS_MEAN:
        mean = tl.sum(_read_all(scratch, 9, PROGRAMS), 0) if PROGRAMS > 1 else results[5]
        if IN_REGISTERS:
            write_held(slopes, shares, steep * mean, gradient + begin, length, PIECES, SIZE)
        else:
            slopes_of_read(
                student, teacher, s_log, shift, gradient, steep, hard_factor, label, begin, length, width,
                beta, one_minus_beta, mean, KIND, HALF, HARD, BLOCK,
            )  # fmt: skip
    if program == 0:
        if PROGRAMS > 1 and (TEACHER or STATISTICS):
            results = _join_results(scratch, TEACHER, KIND, STATISTICS, PROGRAMS)
            if AGREEMENT:
                s_first = tl.min(_read_all(scratch, 10, PROGRAMS), 0).to(tl.int32)
                t_first = tl.min(_read_all(scratch, 11, PROGRAMS), 0).to(tl.int32)
        forward, reverse, s_entropy, t_entropy, mixed, _ = results
        if VALUES:
            value = cross_entropy * hard if HARD else 0.0
            if KIND == JSD:
                value += divergence * mixed
            elif KIND == FORWARD:
                value += divergence * forward
            elif KIND == REVERSE:
                value += divergence * reverse
            tl.store(values + row, value)
        if STATISTICS:
            tl.store(statistics + row, hard)
            tl.store(statistics + 3 * count + row, s_entropy)
            if TEACHER:
                tl.store(statistics + count + row, forward)
                tl.store(statistics + 2 * count + row, reverse)
                tl.store(statistics + 4 * count + row, t_entropy)
                tl.store(statistics + 5 * count + row, tl.where(s_first == t_first, 1.0, 0.0))
