"""Values, statistics and gradient of a chunk of logits in one Triton kernel: `PARTS` programs a row of the vocabulary.

Raw products hidden @ weight.T go in and are only read: bias, scale, soft cap and temperature are applied to each logit
as it is loaded. Two or three passes go over a row:

  1. maximum (and its place) and Σ exp of both models;
  2. the sums that every divergence and statistic is made of;
  3. the gradient, where it needs one of those sums (0 < β ≤ 1); else it is written in pass 2.

Where a program's part is one block (HELD), it stays in registers from pass to pass and each logit is read once. Else
passes alternate in direction, so that the end of one is still in the cache for the next.

After the first two passes a row's programs wait for one another: each writes its results on the row's board and goes on
with everybody's. The device starts programs in order, so the programs of a row run at the same time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tutelage.loss.triton_math import add_seven, add_three, compare, include, join, join_both, log_mixture

_NOTHING = tl.constexpr(-1e30)  # the logit of a place past the row's end; finite, so that differences are too
# Loads run two blocks ahead. What is read for the last time, and the gradient, should not push out of the cache what
# the next pass will read.
_AHEAD = tl.constexpr(3)
_KEEP, _DROP, _PASS_BY = tl.constexpr(""), tl.constexpr("evict_first"), tl.constexpr(".cs")
JSD, FORWARD, REVERSE = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _logits(
    products, biases, places, live, inner, outer,
    MAP: tl.constexpr, BIASED: tl.constexpr, KEEP: tl.constexpr = _KEEP,
):  # fmt: skip
    """Logits from raw products: (product + bias) · inner, or outer · tanh of that."""
    z = tl.load(products + places, mask=live, other=0.0, eviction_policy=KEEP)
    if BIASED:
        z += tl.load(biases + places, mask=live, other=0.0)
    if MAP >= 1:
        z *= inner
    if MAP == 2:
        z = outer * (1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0))
    return tl.where(live, z, _NOTHING)


@triton.jit
def _pair(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    places, live, TEACHER: tl.constexpr, KEEP: tl.constexpr = _KEEP,
):  # fmt: skip
    """Logits of the student and the teacher, or twice the student's where there is none."""
    zs = _logits(s, s_bias, places, live, s_inner, s_outer, S_MAP, S_BIASED, KEEP)
    zt = zs
    if TEACHER:
        zt = _logits(t, t_bias, places, live, t_inner, t_outer, T_MAP, T_BIASED, KEEP)
    return zs, zt


@triton.jit
def _put(gradient, places, live, slope, z, factor, outer, MAP: tl.constexpr):
    """Write factor · slope, the gradient with respect to the raw product, in the buffer's type."""
    if MAP == 2:  # d tanh
        t = tl.maximum(z / outer, -1.0)  # a place past the end would overflow
        slope *= 1.0 - t * t
    tl.store(gradient + places, (slope * factor).to(gradient.dtype.element_ty), mask=live, cache_modifier=_PASS_BY)


@triton.jit
def _norms(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    held_s, held_t, begin, length, width, TEACHER: tl.constexpr, HELD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 1, forward. Maximum, Σ exp(z − maximum) and place of the maximum, of the student and the teacher."""
    lanes = tl.arange(0, BLOCK)
    s_top = tl.full([BLOCK], _NOTHING, tl.float32)
    s_total = tl.zeros([BLOCK], tl.float32)
    s_place = tl.zeros([BLOCK], tl.int32)
    t_top, t_total, t_place = s_top, s_total, s_place
    if HELD:
        s_top, s_total, s_place = held_s, s_total + 1.0, s_place + begin
        t_top, t_total, t_place = held_t, s_total, s_place
    else:
        for offset in tl.range(0, length, BLOCK, num_stages=_AHEAD):
            start = begin + offset
            places = start + lanes
            zs, zt = _pair(
                s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
                places, places < width, TEACHER,
            )  # fmt: skip
            if TEACHER:
                t_top, t_total, t_place = include(zt, start, t_top, t_total, t_place)
            s_top, s_total, s_place = include(zs, start, s_top, s_total, s_place)
    # Student and teacher at once, here and below: each reduction makes a program's warps wait for one another twice.
    if TEACHER:
        s_max, s_sum, s_first, t_max, t_sum, t_first = join_both(
            s_top, s_total, s_place, t_top, t_total, t_place, lanes, width
        )
    else:
        s_max, s_sum, s_first = join(s_top, s_total, s_place, lanes, width)
        t_max, t_sum, t_first = s_max, s_sum, s_first
    return s_max, s_sum, s_first, t_max, t_sum, t_first


@triton.jit
def _sums(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    held_s, held_t, s_log, t_log, shift, gradient, factor, label, begin, length, width,
    cross_entropy, divergence, beta, rest,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, HELD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 2, backward: Σ T−S, Σ S·δ, Σ T·δ, Σ S·log(M/S), Σ T·log(M/T), Σ S·log S, Σ T·log T; perhaps the gradient."""
    lanes = tl.arange(0, BLOCK)
    gap = tl.zeros([BLOCK], tl.float32)
    s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = gap, gap, gap, gap, gap, gap
    for offset in tl.range(0, length, BLOCK, num_stages=_AHEAD):
        places = begin + (length - BLOCK - offset) + lanes
        live = places < width
        zs, zt = held_s, held_t
        if not HELD:
            zs, zt = _pair(
                s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
                places, live, TEACHER,
            )  # fmt: skip
        log_s = zs - s_log
        if TEACHER:
            delta, e, x = compare(zs, zt, shift)
            log_t = zt - t_log
            larger = tl.exp(tl.maximum(log_s, log_t))
            smaller = larger + x * larger
            ahead = delta >= 0.0
            ps, pt = tl.where(ahead, larger, smaller), tl.where(ahead, smaller, larger)
            more = tl.where(ahead, x, -x) * larger
            gap += more
            if STATISTICS or KIND == REVERSE:
                s_delta += ps * delta
            if STATISTICS or KIND == FORWARD:
                t_delta += pt * delta
            if KIND == JSD:
                y = log_mixture(delta, e, x, beta, rest, HALF)
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
                slope -= divergence * more
            if HARD:
                slope += cross_entropy * (ps - tl.where(places == label, 1.0, 0.0))
            _put(gradient, places, live, slope, zs, factor, s_outer, S_MAP)
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
    held_s, held_t, s_log, t_log, shift, gradient, factor, label, begin, length, width,
    cross_entropy, divergence, beta, rest, mean,
    KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr, HELD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 3, forward: the gradient of JSD_β, (β−1)·S·(r − Σ S·r), r = log(M/S), or of KL(S‖T), S·(δ − Σ S·δ).

    `mean` is that sum. It takes a common error out of r or δ, which KL(S‖M) or KL(S‖T) in its place would not.
    """
    lanes = tl.arange(0, BLOCK)
    for offset in tl.range(0, length, BLOCK, num_stages=_AHEAD):
        places = begin + offset + lanes
        live = places < width
        zs, zt = held_s, held_t
        if not HELD:
            zs, zt = _pair(
                s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
                places, live, True, _DROP,
            )  # fmt: skip
        delta, e, x = compare(zs, zt, shift)
        ps = tl.exp(zs - s_log)
        if KIND == JSD:
            y = log_mixture(delta, e, x, beta, rest, HALF)
            slope = -rest * divergence * ps * (y + tl.maximum(-delta, 0.0) - mean)
        else:
            slope = divergence * ps * (delta - mean)
        if HARD:
            slope += cross_entropy * (ps - tl.where(places == label, 1.0, 0.0))
        _put(gradient, places, live, slope, zs, factor, s_outer, S_MAP)


@triton.jit
def _wait(arrived, everybody):
    """What all programs of the row wrote before they came here can be read by each."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1)
    while tl.atomic_add(arrived, 0) < everybody:
        pass
    tl.debug_barrier()


@triton.jit
def _put_up(board, column: tl.constexpr, part, value, PARTS: tl.constexpr):
    tl.store(board + column * PARTS + part, value.to(tl.float32))  # places are exact up to 2²⁴


@triton.jit
def _read(board, column: tl.constexpr, PARTS: tl.constexpr):
    """What each program of the row has put up, [PARTS]; not from a multiprocessor's own cache, which may be old."""
    return tl.load(board + column * PARTS + tl.arange(0, PARTS), cache_modifier=".cg")


@triton.jit
def _of_all(board, COLUMN: tl.constexpr, width, PARTS: tl.constexpr):
    """`join` over the programs of a row: maximum, sum and place are in three columns of the board."""
    maxima, sums = _read(board, COLUMN, PARTS), _read(board, COLUMN + 1, PARTS)
    places, lanes = _read(board, COLUMN + 2, PARTS).to(tl.int32), tl.arange(0, PARTS)
    return join(maxima, sums, places - lanes, lanes, width)


@triton.jit(do_not_specialize=["count"])  # else compiled again for a short last chunk
def rows_kernel(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    labels, weights, values, statistics, gradient, board, arrived,
    factor, count, width, cross_entropy, divergence, beta, rest,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    VALUES: tl.constexpr, STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """A part of one row: values[row], statistics[0..5, row] and gradient[row, :] times weights[row].

    KIND is the divergence (0: none), HARD says that the label's cross-entropy is part of the loss, `factor` is
    d logit / d product but for the soft cap. board [count, 13, PARTS] and arrived [count], which holds zeros, are for
    PARTS > 1.
    """
    row = (tl.program_id(0) // PARTS).to(tl.int64)  # rows · width may exceed 2³¹
    part = tl.program_id(0) % PARTS
    share = tl.cdiv(tl.cdiv(width, BLOCK), PARTS) * BLOCK
    begin = tl.minimum(part * share, width)
    board += row * 13 * PARTS
    arrived += row
    s += row * width
    t += row * width
    label = tl.load(labels + row)
    if HELD:
        length: tl.constexpr = BLOCK
        places = begin + tl.arange(0, BLOCK)
        held_s, held_t = _pair(
            s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
            places, places < width, TEACHER, _DROP,
        )  # fmt: skip
    else:
        length = tl.cdiv(tl.minimum(share, width - begin), BLOCK) * BLOCK
        held_s, held_t = 0.0, 0.0
    s_max, s_sum, s_first, t_max, t_sum, t_first = _norms(
        s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
        held_s, held_t, begin, length, width, TEACHER, HELD, BLOCK,
    )  # fmt: skip
    if PARTS > 1:
        _put_up(board, 0, part, s_max, PARTS)
        _put_up(board, 1, part, s_sum, PARTS)
        _put_up(board, 2, part, s_first, PARTS)
        _put_up(board, 3, part, t_max, PARTS)
        _put_up(board, 4, part, t_sum, PARTS)
        _put_up(board, 5, part, t_first, PARTS)
        _wait(arrived, PARTS)
        s_max, s_sum, s_first = _of_all(board, 0, width, PARTS)
        t_max, t_sum, t_first = _of_all(board, 3, width, PARTS)
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
            held_s, held_t, s_log, t_log, shift, gradient, factor, label, begin, length, width,
            cross_entropy, divergence, beta, rest,
            TEACHER, KIND, HALF, HARD, STATISTICS, GRADIENT and ONE_PASS, HELD, BLOCK,
        )  # fmt: skip
        if PARTS > 1:
            _put_up(board, 6, part, gap, PARTS)
            _put_up(board, 7, part, s_delta, PARTS)
            _put_up(board, 8, part, t_delta, PARTS)
            _put_up(board, 9, part, s_ratio, PARTS)
            _put_up(board, 10, part, t_ratio, PARTS)
            _put_up(board, 11, part, s_own, PARTS)
            _put_up(board, 12, part, t_own, PARTS)
            _wait(arrived, 2 * PARTS)
            gap, s_delta = tl.sum(_read(board, 6, PARTS), 0), tl.sum(_read(board, 7, PARTS), 0)
            t_delta, s_ratio = tl.sum(_read(board, 8, PARTS), 0), tl.sum(_read(board, 9, PARTS), 0)
            t_ratio, s_own = tl.sum(_read(board, 10, PARTS), 0), tl.sum(_read(board, 11, PARTS), 0)
            t_own = tl.sum(_read(board, 12, PARTS), 0)
    forward, reverse, s_mixed, t_mixed = -t_delta - gap, s_delta + gap, beta * gap - s_ratio, -rest * gap - t_ratio
    if GRADIENT and not ONE_PASS:
        _slopes(
            s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
            held_s, held_t, s_log, t_log, shift, gradient, factor, label, begin, length, width,
            cross_entropy, divergence, beta, rest,
            s_ratio if KIND == JSD else s_delta, KIND, HALF, HARD, HELD, BLOCK,
        )  # fmt: skip
    if part == 0:
        if VALUES:
            value = cross_entropy * hard if HARD else 0.0
            if KIND == JSD:
                value += divergence * (beta * t_mixed + rest * s_mixed)
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
