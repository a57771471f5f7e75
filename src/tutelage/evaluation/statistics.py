"""Standard errors and paired comparisons of models, trained with several seeds, on the same examples.

Shapes: S seeds, N examples. nan is an *unscored* answer, which is not a wrong one: it is left out of means, and an
example that is nan for any seed is left out of standard errors and comparisons, and counted.

The standard errors assume two crossed random effects, seeds and examples:

    score[s, n] = mean + seed[s] + example[n] + noise[s, n],

since both another training run and another draw of the examples would give another mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIGNIFICANT = 0.05  # a difference with a smaller p counts as shown
FEW_EXAMPLES = 30  # fewer can hardly tell models apart
Scores = NDArray[np.float64]
_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of a bootstrap (16 MB of indices) for any N


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and examples, in the unit of the scores."""

    mean: float  # over everything that is scored; nan when nothing is
    stderr: float  # nan when fewer than two examples are complete
    seeds: int
    examples: int  # complete: scored in every seed
    dropped: int  # with a score missing in at least one seed


@dataclass(frozen=True)
class Paired:
    """The difference a − b of two arms on the examples that both were scored on, in the unit of the scores."""

    difference: float
    low: float  # ends of the 95 % interval
    high: float
    p_value: float  # two-sided
    stderr: float
    examples: int
    dropped: int
    seed_stderr: float = 0.0  # the seeds' part of `stderr`, which more examples do not make smaller


@dataclass(frozen=True)
class _Components:
    """Variances of the three random terms of the crossed model."""

    seed: float
    example: float
    noise: float


def as_scores(scores: ArrayLike) -> Scores:
    """Scores as float64 [S, N]; [N] becomes one seed. Raises ValueError for other shapes."""
    array = np.asarray(scores, dtype=np.float64)
    array = array[None, :] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] == 0:
        raise ValueError(f"scores must be [N] or [S, N] with S ≥ 1, not {array.shape}")
    return array


def standard_error(scores: ArrayLike) -> float:
    """Standard error of the mean of scores [N], s / √N over the scored ones; nan for fewer than two."""
    values = np.asarray(scores, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def crossed_standard_error(scores: ArrayLike) -> float:
    """Standard error of the mean of scores [S, N] over seeds and examples; nan for fewer than two complete examples.

    A two-way analysis of variance without replicates gives the mean squares MS_seed, MS_example and MS_noise, and

        σ²_noise = MS_noise,  σ²_seed = (MS_seed − MS_noise) / N,  σ²_example = (MS_example − MS_noise) / S,

    the last two at least 0. The result is √(σ²_seed / S + σ²_example / N + σ²_noise / (S·N)).
    With S = 1 the variance over seeds is unknown, and the result is `standard_error` of the examples.
    """
    array = as_scores(scores)
    if array.shape[0] == 1:
        return standard_error(array[0])
    array = array[:, _complete(array)]
    seeds, examples = array.shape
    if examples < 2:
        return float("nan")
    parts = _components(array)
    return float(np.sqrt(parts.seed / seeds + parts.example / examples + parts.noise / (seeds * examples)))


def estimate(scores: ArrayLike) -> Estimate:
    """Mean of scores [S, N], its crossed standard error, and the counts behind both."""
    array = as_scores(scores)
    complete = int(_complete(array).sum())
    scored = array[~np.isnan(array)]
    mean = float(scored.mean()) if scored.size else float("nan")
    return Estimate(mean, crossed_standard_error(array), array.shape[0], complete, array.shape[1] - complete)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, samples: int = 10_000, seed: int = 0, paired_seeds: bool = False
) -> Paired:
    """Compare two arms, scores [S_a, N] and [S_b, N] on the same N examples: the difference of means, a − b.

    Every bootstrap sample draws N examples with replacement, averages their differences over seeds, and adds a
    resampled seed effect for each arm with more than one seed. Three corrections keep the interval's coverage near
    95 % for few seeds: observed seed effects are shrunk by the share of their variance that is example noise, which
    the drawn examples already carry; S − 1 seeds are drawn instead of S, since S draws from S seeds vary too little by
    (S − 1) / S; and each draw is divided by √(χ²/(S − 1)) with S − 1 degrees of freedom, since the variance of S seeds
    is itself uncertain, as in Student's t. In simulations, pairs of two seeds cover 92 % or more, pairs of more seeds
    95 %, and independent arms of two or three seeds more than that.

    `paired_seeds`: row s of both arms is a pair (same data order, or one started from the other) and is resampled
    together; otherwise the seeds of each arm are resampled independently. An arm of one seed is not resampled: the
    result then holds for that training run alone.

    The interval is from the 2.5 to the 97.5 percentile; p = 2·min(share ≤ 0, share ≥ 0), with the observed data counted
    as one more sample, and at least 2^(1 − N), the smallest that an exact test by the signs of N differences can give,
    since few examples that happen to agree would be taken for certain. `stderr` is the crossed standard error of the
    difference. Everything is nan with fewer than two complete examples. Raises ValueError when the shapes do not fit.
    """
    left, right = as_scores(a), as_scores(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"the arms have {left.shape[1]} and {right.shape[1]} examples; align them first")
    if paired_seeds and left.shape[0] != right.shape[0]:
        raise ValueError(f"paired_seeds needs equally many seeds, not {left.shape[0]} and {right.shape[0]}")
    complete = _complete(left) & _complete(right)
    left, right = left[:, complete], right[:, complete]
    examples = left.shape[1]
    dropped = int(complete.size - examples)
    if examples < 2:
        nan = float("nan")
        return Paired(nan, nan, nan, nan, nan, examples, dropped)
    generator = np.random.default_rng(seed)
    differences = left.mean(0) - right.mean(0)
    drawn = _resampled_means(differences, samples, generator)
    of_examples, of_seeds = differences.var(ddof=1) / examples, 0.0
    for arm in [left - right] if paired_seeds else [left, -right]:
        drawn += _resampled_seed_effects(arm, samples, generator)
        of_seeds += _components(arm).seed / arm.shape[0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Paired(
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, max(2 * tail / (samples + 1), 2.0 ** (1 - examples))),
        stderr=float(np.sqrt(of_examples + of_seeds)),
        examples=examples,
        dropped=dropped,
        seed_stderr=float(np.sqrt(of_seeds)),
    )


def _complete(scores: Scores) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(scores).any(axis=0), dtype=np.bool_)


def _components(scores: Scores) -> _Components:
    """Variance components of complete scores [S, N ≥ 2] by analysis of variance, negative ones set to 0."""
    seeds, examples = scores.shape
    if seeds == 1:
        return _Components(0.0, float(scores.var(ddof=1)), 0.0)
    mean = scores.mean()
    of_seed, of_example = scores.mean(1) - mean, scores.mean(0) - mean
    residual = scores - mean - of_seed[:, None] - of_example[None, :]
    noise = float((residual**2).sum() / ((seeds - 1) * (examples - 1)))
    seed = float(examples * (of_seed**2).sum() / (seeds - 1) - noise) / examples
    example = float(seeds * (of_example**2).sum() / (examples - 1) - noise) / seeds
    return _Components(max(0.0, seed), max(0.0, example), noise)


def _resampled_means(values: Scores, samples: int, generator: np.random.Generator) -> Scores:
    """Means of `samples` draws with replacement from values [N]; float64 [samples]."""
    means = np.empty(samples)
    rows = max(1, _DRAWS_AT_ONCE // values.size)
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        chosen = generator.integers(values.size, size=(count, values.size), dtype=np.int32)
        means[start : start + count] = values[chosen].mean(1)
    return means


def _resampled_seed_effects(scores: Scores, samples: int, generator: np.random.Generator) -> Scores:
    """Mean seed effects of `samples` draws of S − 1 seeds from complete scores [S, N]; zeros when S is 1."""
    seeds, examples = scores.shape
    if seeds == 1:
        return np.zeros(samples)
    parts = _components(scores)
    observed = parts.seed + parts.noise / examples  # expected variance of the seeds' means
    share = parts.seed / observed if observed > 0 else 0.0
    effects = (scores.mean(1) - scores.mean()) * np.sqrt(share)
    counts = generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=samples)
    spread = np.sqrt((seeds - 1) / generator.chisquare(seeds - 1, size=samples))
    return counts @ effects / (seeds - 1) * spread


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method, in the given order: the k-th smallest of m is
    multiplied by m − k + 1, and none is smaller than the one before it or larger than 1. A p that is nan, of what could
    not be compared, stays nan and does not count."""
    order = sorted((n for n, p in enumerate(p_values) if not np.isnan(p)), key=p_values.__getitem__)
    corrected, least = [float("nan")] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, p_values[index] * (len(order) - place)))
        corrected[index] = least
    return corrected


def significant(versus: Paired | None) -> bool:
    """Whether a comparison shows a difference: p < SIGNIFICANT. False without a comparison."""
    return versus is not None and versus.p_value < SIGNIFICANT
