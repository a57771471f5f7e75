"""How the loss kernel reads logits and writes their gradient.

A model is a tuple: pointer to the raw products of the row, pointer to the bias, inner and outer factor, MAP and BIASED.
Its logits are made of the products, hidden @ weight.T, as those are loaded; products are only read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tutelage.loss.triton_math import FORWARD, JSD, LN2

# The logit of a column past the row's end: finite, so that differences are finite too, and a power of 2, so that its
# product with log2(e) is exact: where a program has no other columns, its Σ exp(z − maximum) is finite as well.
PAST_END = tl.constexpr(-float(2**100))
# Logits that are read for the last time, and the gradient, must not evict what the next pass will read.
DEFAULT_CACHE, EVICT_FIRST, _STREAMING = tl.constexpr(""), tl.constexpr("evict_first"), tl.constexpr(".cs")


@triton.jit
def logits(model, columns, valid, EVICTION: tl.constexpr):
    """Logits of `columns`, those that are not `valid` PAST_END; None: all are.

    By MAP: the product; 1: (product + bias) · inner; 2: outer · tanh((product + bias) · inner).
    """
    products, biases, inner, outer, MAP, BIASED = model
    other: tl.constexpr = None if valid is None else PAST_END
    z = tl.load(products + columns, mask=valid, other=other, eviction_policy=EVICTION)
    if BIASED:
        z += tl.load(biases + columns, mask=valid, other=None if valid is None else 0.0)
    if MAP >= 1:
        z *= inner
    if MAP == 2:
        z = outer * (1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0))
    if MAP >= 1 and valid is not None:
        z = tl.where(valid, z, PAST_END)
    return z


@triton.jit
def starting_at(model, begin):
    """The model with column `begin` as its first."""
    products, biases, inner, outer, MAP, BIASED = model
    return products + begin, biases + begin, inner, outer, MAP, BIASED


@triton.jit
def soft_cap_slope(z, outer):
    """d logit / d (inner · product), over outer, of a soft-capped logit."""
    t = tl.maximum(z / outer, -1.0)  # a column past the end would overflow
    return 1.0 - t * t


@triton.jit
def steepness(factor, divergence, one_minus_beta, KIND: tl.constexpr):
    """What the third value of `add_terms` (JSD, KL(S‖T)), or its second (KL(T‖S)), is multiplied by in the gradient."""
    if KIND == FORWARD:
        return -divergence * factor
    if KIND == JSD:
        return -one_minus_beta * divergence * factor * LN2
    return divergence * factor * LN2


@triton.jit
def store_slope(gradient, columns, valid, slope):
    """Write a block of the gradient in the buffer's type."""
    tl.store(gradient + columns, slope.to(gradient.dtype.element_ty), mask=valid, cache_modifier=_STREAMING)
