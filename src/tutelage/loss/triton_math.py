"""Arithmetic of the loss kernel: running sums of exponentials, and the logarithm of a mixture without overflow.

With δ = log S − log T, a = |δ| and x = expm1(−a):  T − S = x·S for δ ≥ 0, else −x·T, and
log(M/S) = log1p(share·x) + max(−δ, 0), log(M/T) = log1p(share·x) + max(δ, 0), where share = β for δ ≥ 0, else 1−β.
Nothing in these overflows, and values of nearly equal models keep their leading digits. All arithmetic is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def running_max_sum(z, start, top, total, place):
    """Per lane: running maximum, Σ exp(z − maximum), and `start` of the block where the maximum first occurred."""
    above = z > top
    e = tl.exp(-tl.abs(z - top))
    total = tl.where(above, total * e + 1.0, total + e)
    place = tl.where(above, start, place)
    return tl.maximum(top, z), total, place


@triton.jit
def join_lanes(top, total, place, lanes, width):
    """Combine the lanes: maximum, Σ exp(z − maximum), and the first index of the maximum."""
    maximum = tl.max(top, 0)
    first = tl.min(tl.where(top == maximum, place + lanes, width), 0)
    return maximum, tl.sum(total * tl.exp(top - maximum), 0), first


@triton.jit
def join_lanes_of_both(s_top, s_total, s_place, t_top, t_total, t_place, lanes, width):
    """`join_lanes` of student and teacher, in two reductions instead of six."""
    s_max, t_max = tl.reduce((s_top, t_top), 0, _larger)
    s_sum, t_sum, s_first, t_first = tl.reduce(
        (
            s_total * tl.exp(s_top - s_max),
            t_total * tl.exp(t_top - t_max),
            tl.where(s_top == s_max, s_place + lanes, width),
            tl.where(t_top == t_max, t_place + lanes, width),
        ),
        0,
        _sums_and_firsts,
    )
    return s_max, s_sum, s_first, t_max, t_sum, t_first


@triton.jit
def _larger(a, b, p, q):
    return tl.maximum(a, p), tl.maximum(b, q)


@triton.jit
def _sums_and_firsts(a, b, c, d, p, q, r, s):
    return a + p, b + q, tl.minimum(c, r), tl.minimum(d, s)


@triton.jit
def add_three(a, b, c, p, q, r):
    """For `tl.reduce`: the sums of three tensors in one reduction."""
    return a + p, b + q, c + r


@triton.jit
def add_seven(a, b, c, d, e, f, g, p, q, r, s, t, u, v):
    """For `tl.reduce`: the sums of seven tensors in one reduction."""
    return a + p, b + q, c + r, d + s, e + t, f + u, g + v


@triton.jit
def expm1_of_minus(a, e):
    """exp(−a) − 1 for a ≥ 0, given e = exp(−a); for a < ½ by an interpolant of (1 − exp(−a)) / a, error 3e-9."""
    p = a * -0.0011234042467549443 + 0.008189613930881023
    p = p * a - 0.04163007438182831
    p = p * a + 0.16666242480278015
    p = p * a - 0.4999998211860657
    p = p * a + 1.0
    return tl.where(a < 0.5, -a * p, e - 1.0)


@triton.jit
def log1p_of(u):
    """log(1 + u) for −½ ≤ u ≤ 0 by an interpolant of log1p(u) / u, error 4e-8."""
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
def log_ratio(zs, zt, shift):
    """δ = log S − log T, e = exp(−|δ|) and x = expm1(−|δ|); `shift` is the difference of the two log-normalisers."""
    delta = (zs - zt) - shift
    a = tl.abs(delta)
    e = tl.exp(-a)
    return delta, e, expm1_of_minus(a, e)


@triton.jit
def log_mixture(delta, e, x, beta, one_minus_beta, HALF: tl.constexpr):
    """log(M / max(S, T)) with M = β·T + (1−β)·S."""
    if HALF:
        return log1p_of(0.5 * x)
    student_larger = delta >= 0.0
    u = tl.where(student_larger, beta, one_minus_beta) * x
    far = tl.log(tl.where(student_larger, one_minus_beta, beta) + tl.where(student_larger, beta, one_minus_beta) * e)
    return tl.where(u > -0.5, log1p_of(u), far)
