"""Arithmetic of the loss kernel: running sums of exponentials, and the logarithm of a mixture without overflow.

Logarithms are to base 2 throughout: the device has one instruction for 2^x, and the factor log2(e) of exp(z − c) is
part of a multiplication and addition in one. Sums over lanes are turned into nats.

With δ = log2 S − log2 T, a = |δ| and x = 2^−a − 1:  T − S = x·S for δ ≥ 0, else −x·T, and
log2(M/S) = log2(1 + share·x) + max(−δ, 0), log2(M/T) = log2(1 + share·x) + max(δ, 0), where share = β for δ ≥ 0, else
1−β. Nothing in these overflows, and values of nearly equal models keep their leading digits. All arithmetic is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
JSD, FORWARD, REVERSE = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def running_max_sum(z, start, top, total, place, PLACE: tl.constexpr):
    """Per lane: running maximum, Σ exp(z − maximum), and with PLACE the block's `start` where it first occurred."""
    above = z > top
    e = tl.exp2(-tl.abs(z - top) * LOG2E)
    total = tl.where(above, total * e + 1.0, total + e)
    if PLACE:
        place = tl.where(above, start, place)
    return tl.maximum(top, z), total, place


@triton.jit
def sum_of_powers(total, top, maximum):
    """Lanes' Σ exp(z − top) → their part of Σ exp(z − maximum)."""
    return total * tl.exp2((top - maximum) * LOG2E)


@triton.jit
def larger_two(a, b, p, q):
    """For `tl.reduce`, here and below: the maxima of two tensors in one reduction, which synchronises warps once."""
    return tl.maximum(a, p), tl.maximum(b, q)


@triton.jit
def smaller_two(a, b, p, q):
    return tl.minimum(a, p), tl.minimum(b, q)


@triton.jit
def add_two(a, b, p, q):
    return a + p, b + q


@triton.jit
def add_four(a, b, c, d, p, q, r, s):
    return a + p, b + q, c + r, d + s


@triton.jit
def add_five(a, b, c, d, e, p, q, r, s, t):
    return a + p, b + q, c + r, d + s, e + t


@triton.jit
def add_six(a, b, c, d, e, f, p, q, r, s, t, u):
    return a + p, b + q, c + r, d + s, e + t, f + u


@triton.jit
def power_minus_1(a, e):
    """2^−a − 1 for a ≥ 0, given e = 2^−a; for exp's argument below ½ by an interpolant of it over a, error 3e-9."""
    p = a * 0.00012459162098821253 - 0.001310360268689692
    p = p * a + 0.009609682485461235
    p = p * a - 0.055502697825431824
    p = p * a + 0.24022641777992249
    p = p * a - 0.6931471824645996
    return tl.where(a < 0.7213475, a * p, e - 1.0)


@triton.jit
def log2_of_half(v):
    """log2(1 + v/2) for −1 ≤ v ≤ 0 by an interpolant of it over v, error 4e-8."""
    p = v * 0.003967289347201586 + 0.009187103249132633
    p = p * v + 0.013581777922809124
    p = p * v + 0.004093008115887642
    p = p * v + 0.011926922015845776
    p = p * v - 0.02195037342607975
    p = p * v + 0.06017156317830086
    p = p * v - 0.18033462762832642
    p = p * v + 0.7213475108146667
    return v * p


@triton.jit
def log_share(z, norm):
    """log2 softmax; `norm` is the largest logit and log2 Σ exp(z − that): their sum in float32 would lose digits."""
    top, log_sum = norm
    return tl.fma(z - top, LOG2E, -log_sum)


@triton.jit
def log_ratio(zs, zt, shift):
    """δ = log2 S − log2 T, e = 2^−|δ| and x = e − 1; `shift` is the difference of the two log2-normalisers."""
    delta = tl.fma(zs - zt, LOG2E, -shift)
    a = tl.abs(delta)
    e = tl.exp2(-a)
    return delta, e, power_minus_1(a, e)


@triton.jit
def log_mixture(delta, e, x, beta, one_minus_beta, HALF: tl.constexpr):
    """log2(M / max(S, T)) and log2(M / min(S, T)) with M = β·T + (1−β)·S."""
    a = tl.abs(delta)
    if HALF:
        y = log2_of_half(x)
        return y, y + a
    student_larger = delta >= 0.0
    share, other = tl.where(student_larger, beta, one_minus_beta), tl.where(student_larger, one_minus_beta, beta)
    v = 2.0 * share * x
    y = tl.where(v > -1.0, log2_of_half(v), tl.log2(other + share * e))
    w = 2.0 * other * x / (1.0 + share * x)  # min(S, T) / M is 1 + w/2; y + |δ| would cancel for a small `other`
    return y, tl.where(w > -1.0, -log2_of_half(tl.maximum(w, -1.0)), y + a)


@triton.jit
def add_terms(
    sums, zs, zt, s_log, t_log, shift, beta, one_minus_beta,
    TEACHER: tl.constexpr, KIND: tl.constexpr, HALF: tl.constexpr, STATISTICS: tl.constexpr,
):  # fmt: skip
    """Add a block's terms, lane by lane, to seven sums:

    Σ T−S, Σ S·δ, Σ T·δ, Σ S·log2(M/S), Σ T·log2(M/T), Σ S·log2 S, Σ T·log2 T.

    Also returns S, T − S, and S·r, where the gradient is a multiple of S·(r − Σ S·r): r is log2(M/S) for JSD and δ for
    KL(S‖T). Sums that neither KIND nor STATISTICS needs stay as they are.
    """
    gap, s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = sums
    log_s = log_share(zs, s_log)
    if TEACHER:
        delta, e, x = log_ratio(zs, zt, shift)
        log_t = log_share(zt, t_log)
        larger = tl.exp2(tl.maximum(log_s, log_t))
        less = x * larger
        smaller = larger + less
        student_larger = delta >= 0.0
        ps, pt = tl.where(student_larger, larger, smaller), tl.where(student_larger, smaller, larger)
        surplus = tl.where(student_larger, less, -less)
        product = ps * delta
        if STATISTICS or KIND != JSD:
            gap += surplus
        if STATISTICS or KIND == REVERSE:
            s_delta += product
        if STATISTICS or KIND == FORWARD:
            t_delta += pt * delta
        if KIND == JSD:
            large_ratio, small_ratio = log_mixture(delta, e, x, beta, one_minus_beta, HALF)
            of_larger, of_smaller = larger * large_ratio, smaller * small_ratio
            product = tl.where(student_larger, of_larger, of_smaller)
            s_ratio += product
            t_ratio += tl.where(student_larger, of_smaller, of_larger)
        if STATISTICS:
            t_own += pt * log_t
    else:
        ps = tl.exp2(log_s)
        surplus, product = ps, ps
    if STATISTICS:
        s_own += ps * log_s
    return (gap, s_delta, t_delta, s_ratio, t_ratio, s_own, t_own), ps, surplus, product


@triton.jit
def results_of_lanes(sums, beta, one_minus_beta, KIND: tl.constexpr):
    """Per lane, from the seven sums: KL(T‖S), KL(S‖T), entropies of S and T and JSD_β, in nats, and Σ S·r in bits."""
    gap, s_delta, t_delta, s_ratio, t_ratio, s_own, t_own = sums
    forward, reverse = -t_delta * LN2 - gap, s_delta * LN2 + gap
    # KL(T‖M) is −(1−β)·gap − t_ratio and KL(S‖M) is β·gap − s_ratio: in their mean by β the gaps cancel.
    mixed = -LN2 * (beta * t_ratio + one_minus_beta * s_ratio)
    return forward, reverse, -s_own * LN2, -t_own * LN2, mixed, s_ratio if KIND == JSD else s_delta


@triton.jit
def sum_lanes(results, TEACHER: tl.constexpr, KIND: tl.constexpr, STATISTICS: tl.constexpr):
    """Those of `results_of_lanes` that are needed, over all lanes in one reduction; zero for the others."""
    forward, reverse, s_entropy, t_entropy, mixed, mean = results
    a, b, c, d, e, f = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if STATISTICS and KIND == JSD:
        a, b, c, d, e, f = tl.reduce(results, 0, add_six)
    elif STATISTICS and KIND == REVERSE:
        a, b, c, d, f = tl.reduce((forward, reverse, s_entropy, t_entropy, mean), 0, add_five)
    elif STATISTICS and TEACHER:
        a, b, c, d = tl.reduce((forward, reverse, s_entropy, t_entropy), 0, add_four)
    elif STATISTICS:
        c = tl.sum(s_entropy, 0)
    elif KIND == JSD:
        e, f = tl.reduce((mixed, mean), 0, add_two)
    elif KIND == FORWARD:
        a = tl.sum(forward, 0)
    elif KIND == REVERSE:
        b, f = tl.reduce((reverse, mean), 0, add_two)
    return a, b, c, d, e, f
