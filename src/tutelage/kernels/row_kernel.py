"""Values, statistics and gradient of a chunk of logits in one Triton kernel: one program a row of the vocabulary.

Raw products hidden @ weight.T go in and are only read: bias, scale, soft cap and temperature are applied to each logit
as it is loaded. A row is read two or three times, in alternating direction, so that the end of one pass is still in the
cache for the next:

  1. maximum (and its place) and Σ exp of both models;
  2. the sums that every divergence and statistic is made of;
  3. the gradient, where it needs one of those sums (0 < β ≤ 1); else it is written in pass 2.

With δ = log S − log T, a = |δ| and x = expm1(−a):  T − S is x·S for δ ≥ 0 and −x·T else, and
log(M/S) = log1p(share·x) + max(−δ, 0), log(M/T) = log1p(share·x) + max(δ, 0), share = β for δ ≥ 0 and 1−β else.
Nothing there overflows, and nearly equal models keep their leading digits. All arithmetic is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
def _include(z, start, top, total, place):
    """Running maximum, Σ exp(z − maximum) and where the maximum was first met, lane by lane."""
    above = z > top
    e = tl.exp(-tl.abs(z - top))
    total = tl.where(above, total * e + 1.0, total + e)
    place = tl.where(above, start, place)
    return tl.maximum(top, z), total, place


@triton.jit
def _join(top, total, place, lanes, width):
    """The lanes' results made one: maximum, log Σ exp(z − maximum), and the first place of the maximum."""
    maximum = tl.max(top, 0)
    first = tl.min(tl.where(top == maximum, place + lanes, width), 0)
    return maximum, tl.log(tl.sum(total * tl.exp(top - maximum), 0)), first


@triton.jit
def _expm1_of_minus(a, e):
    """exp(−a) − 1 for a ≥ 0, given e = exp(−a); near 0 by the interpolant of (1 − exp(−a)) / a, error 3e-9."""
    p = a * -0.0011234042467549443 + 0.008189613930881023
    p = p * a - 0.04163007438182831
    p = p * a + 0.16666242480278015
    p = p * a - 0.4999998211860657
    p = p * a + 1.0
    return tl.where(a < 0.5, -a * p, e - 1.0)


@triton.jit
def _log1p_of(u):
    """log(1 + u) for −½ ≤ u ≤ 0 by the interpolant of log1p(u) / u, error 4e-8."""
    p = u * 1.4079567193984985 + 1.6302117109298706
    p = p * u + 1.2050138711929321
    p = p * u + 0.18157164752483368
    p = p * u + 0.26454758644104004
    p = p * u - 0.24343743920326233
    p = p * u + 0.3336620032787323
    p = p * u - 0.4999937415122986
    p = p * u + 1.0
    return u * p


@triton.jit
def _compare(zs, zt, shift):
    """δ, e = exp(−|δ|) and x = expm1(−|δ|)."""
    delta = (zs - zt) - shift
    a = tl.abs(delta)
    e = tl.exp(-a)
    return delta, e, _expm1_of_minus(a, e)


@triton.jit
def _log_mixture(delta, e, x, beta, rest, HALF: tl.constexpr):
    """log(M / max(S, T)) with M = β·T + (1−β)·S."""
    if HALF:
        return _log1p_of(0.5 * x)
    ahead = delta >= 0.0
    u = tl.where(ahead, beta, rest) * x
    far = tl.log(tl.where(ahead, rest, beta) + tl.where(ahead, beta, rest) * e)
    return tl.where(u > -0.5, _log1p_of(u), far)


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
    width, TEACHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 1, forward. Maximum, log Σ exp(z − maximum) and place of the maximum, of the student and the teacher."""
    lanes = tl.arange(0, BLOCK)
    s_top = tl.full([BLOCK], _NOTHING, tl.float32)
    s_total = tl.zeros([BLOCK], tl.float32)
    s_place = tl.zeros([BLOCK], tl.int32)
    t_top, t_total, t_place = s_top, s_total, s_place
    for start in tl.range(0, width, BLOCK, num_stages=_AHEAD):
        places = start + lanes
        live = places < width
        zs = _logits(s, s_bias, places, live, s_inner, s_outer, S_MAP, S_BIASED)
        if TEACHER:
            zt = _logits(t, t_bias, places, live, t_inner, t_outer, T_MAP, T_BIASED)
            t_top, t_total, t_place = _include(zt, start, t_top, t_total, t_place)
        s_top, s_total, s_place = _include(zs, start, s_top, s_total, s_place)
    s_max, s_norm, s_first = _join(s_top, s_total, s_place, lanes, width)
    t_max, t_norm, t_first = s_max, s_norm, s_first
    if TEACHER:
        t_max, t_norm, t_first = _join(t_top, t_total, t_place, lanes, width)
    return s_max, s_norm, s_first, t_max, t_norm, t_first


@triton.jit
def _sums(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    s_log, t_log, shift, gradient, factor, label, width, cross_entropy, divergence, beta, rest,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 2, backward: Σ T−S, Σ S·δ, Σ T·δ, Σ S·log(M/S), Σ T·log(M/T), Σ S·log S, Σ T·log T; perhaps the gradient."""
    lanes = tl.arange(0, BLOCK)
    gap = tl.zeros([BLOCK], tl.float32)
    s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = gap, gap, gap, gap, gap, gap
    last = (width - 1) // BLOCK * BLOCK
    for back in tl.range(0, width, BLOCK, num_stages=_AHEAD):
        places = last - back + lanes
        live = places < width
        zs = _logits(s, s_bias, places, live, s_inner, s_outer, S_MAP, S_BIASED)
        log_s = zs - s_log
        if TEACHER:
            zt = _logits(t, t_bias, places, live, t_inner, t_outer, T_MAP, T_BIASED)
            delta, e, x = _compare(zs, zt, shift)
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
                y = _log_mixture(delta, e, x, beta, rest, HALF)
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
    return (
        tl.sum(gap, 0), tl.sum(s_delta, 0), tl.sum(t_delta, 0), tl.sum(s_ratio, 0), tl.sum(t_ratio, 0),
        tl.sum(s_own, 0), tl.sum(t_own, 0),
    )  # fmt: skip


@triton.jit
def _slopes(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    s_log, t_log, shift, gradient, factor, label, width, cross_entropy, divergence, beta, rest, mean,
    KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass 3, forward: the gradient of JSD_β, (β−1)·S·(r − Σ S·r), r = log(M/S), or of KL(S‖T), S·(δ − Σ S·δ).

    `mean` is that sum. It takes a common error out of r or δ, which KL(S‖M) or KL(S‖T) in its place would not.
    """
    lanes = tl.arange(0, BLOCK)
    for start in tl.range(0, width, BLOCK, num_stages=_AHEAD):
        places = start + lanes
        live = places < width
        zs = _logits(s, s_bias, places, live, s_inner, s_outer, S_MAP, S_BIASED, _DROP)
        zt = _logits(t, t_bias, places, live, t_inner, t_outer, T_MAP, T_BIASED, _DROP)
        delta, e, x = _compare(zs, zt, shift)
        ps = tl.exp(zs - s_log)
        if KIND == JSD:
            y = _log_mixture(delta, e, x, beta, rest, HALF)
            slope = -rest * divergence * ps * (y + tl.maximum(-delta, 0.0) - mean)
        else:
            slope = divergence * ps * (delta - mean)
        if HARD:
            slope += cross_entropy * (ps - tl.where(places == label, 1.0, 0.0))
        _put(gradient, places, live, slope, zs, factor, s_outer, S_MAP)


@triton.jit(do_not_specialize=["count"])  # else compiled again for a short last chunk
def rows_kernel(
    s, s_bias, s_inner, s_outer, S_MAP: tl.constexpr, S_BIASED: tl.constexpr,
    t, t_bias, t_inner, t_outer, T_MAP: tl.constexpr, T_BIASED: tl.constexpr,
    labels, weights, values, statistics, gradient, factor, count, width, cross_entropy, divergence, beta, rest,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, HARD: tl.constexpr,
    VALUES: tl.constexpr, STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: values[row], statistics[0..5, row] and gradient[row, :] times weights[row].

    KIND is the divergence (0: none), HARD says that the label's cross-entropy is part of the loss, `factor` is
    d logit / d product but for the soft cap.
    """
    row = tl.program_id(0).to(tl.int64)  # rows · width may exceed 2³¹
    s += row * width
    t += row * width
    label = tl.load(labels + row)
    s_max, s_norm, s_first, t_max, t_norm, t_first = _norms(
        s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
        width, TEACHER, BLOCK,
    )  # fmt: skip
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
            s_log, t_log, shift, gradient, factor, label, width, cross_entropy, divergence, beta, rest,
            TEACHER, KIND, HALF, HARD, STATISTICS, GRADIENT and ONE_PASS, BLOCK,
        )  # fmt: skip
    forward, reverse, s_mixed, t_mixed = -t_delta - gap, s_delta + gap, beta * gap - s_ratio, -rest * gap - t_ratio
    if GRADIENT and not ONE_PASS:
        _slopes(
            s, s_bias, s_inner, s_outer, S_MAP, S_BIASED, t, t_bias, t_inner, t_outer, T_MAP, T_BIASED,
            s_log, t_log, shift, gradient, factor, label, width, cross_entropy, divergence, beta, rest,
            s_ratio if KIND == JSD else s_delta, KIND, HALF, HARD, BLOCK,
        )  # fmt: skip
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
