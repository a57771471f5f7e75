from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy import stats

from tutelage.evaluation.statistics import (
    crossed_standard_error,
    estimate,
    paired_bootstrap,
    significant,
    standard_error,
)


def crossed(rng: np.random.Generator, seeds: int, examples: int, of_seed: float, of_example: float, noise: float):
    """Scores [S, N] of the crossed model around 0, components given as standard deviations."""
    return (
        rng.normal(0, of_seed, (seeds, 1))
        + rng.normal(0, of_example, (1, examples))
        + rng.normal(0, noise, (seeds, examples))
    )


def test_standard_error_is_scipys_and_leaves_unscored_out() -> None:
    scores = np.random.default_rng(0).random(50)
    assert standard_error(scores) == pytest.approx(stats.sem(scores), rel=1e-12)
    assert standard_error([*scores, math.nan]) == pytest.approx(stats.sem(scores), rel=1e-12)
    assert standard_error([0.0, 1.0]) == pytest.approx(0.5)
    assert math.isnan(standard_error([0.3]))
    assert math.isnan(standard_error([math.nan, 0.3]))


def test_crossed_standard_error_closed_form() -> None:
    # mean 3; seed means 2, 4; example means 1, 5; residuals all ±0: MS_noise 0, MS_seed 4, MS_example 16
    assert crossed_standard_error([[0, 4], [2, 6]]) == pytest.approx(math.sqrt(4 / 2 / 2 + 16 / 2 / 2))
    # only an interaction: both components are clipped at 0, noise is MS = 4·1 / 1
    assert crossed_standard_error([[1, -1], [-1, 1]]) == pytest.approx(math.sqrt(4 / 4))


def test_crossed_standard_error_of_one_seed_or_of_equal_seeds_is_the_examples() -> None:
    scores = np.random.default_rng(1).random(40)
    assert crossed_standard_error(scores[None]) == standard_error(scores)
    assert crossed_standard_error(np.stack([scores] * 3)) == pytest.approx(standard_error(scores), rel=1e-9)


def test_crossed_standard_error_estimates_the_true_spread_of_means() -> None:
    rng = np.random.default_rng(2)
    draws = [crossed(rng, 4, 60, 1.0, 2.0, 3.0) for _ in range(2000)]
    true_variance = 1 / 4 + 4 / 60 + 9 / 240
    assert np.var([draw.mean() for draw in draws]) == pytest.approx(true_variance, rel=0.1)
    assert np.mean([crossed_standard_error(draw) ** 2 for draw in draws]) == pytest.approx(true_variance, rel=0.06)


def test_an_example_unscored_in_one_seed_counts_in_the_mean_but_not_in_the_error() -> None:
    scores = np.array([[0.0, 4.0, 9.0], [2.0, 6.0, math.nan]])
    found = estimate(scores)
    assert (found.mean, found.seeds, found.examples, found.dropped) == (21 / 5, 2, 2, 1)
    assert found.stderr == pytest.approx(crossed_standard_error(scores[:, :2]))
    empty = estimate(np.full((2, 3), math.nan))
    assert math.isnan(empty.mean)
    assert math.isnan(empty.stderr)
    assert (empty.examples, empty.dropped) == (0, 3)


def test_bootstrap_of_one_seed_agrees_with_scipys_paired_test() -> None:
    rng = np.random.default_rng(3)
    b = rng.normal(0, 1, 300)
    a = b + rng.normal(0.05, 0.4, 300)
    found = paired_bootstrap(a, b)
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval()
    assert found.difference == pytest.approx((a - b).mean())
    assert found.stderr == pytest.approx(stats.sem(a - b))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.004)
    assert found.p_value == pytest.approx(test.pvalue, abs=0.01)


def test_bootstrap_standard_error_is_the_crossed_one_of_the_difference() -> None:
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 5, (1, 200))
    a, b = shared + crossed(rng, 3, 200, 1, 2, 2), shared + crossed(rng, 3, 200, 1, 2, 2)
    assert paired_bootstrap(a, b, paired_seeds=True).stderr == pytest.approx(crossed_standard_error(a - b), rel=1e-6)
    # against one fixed run, pairing is the same as broadcasting it
    single = paired_bootstrap(a, b[:1])
    broadcast = paired_bootstrap(a, np.repeat(b[:1], 3, axis=0), paired_seeds=True)
    assert single.stderr == pytest.approx(broadcast.stderr)
    assert (single.low, single.high) == pytest.approx((broadcast.low, broadcast.high))


@pytest.mark.parametrize(
    ("seeds", "of_seed", "noise"), [(1, 0.0, 5.0), (2, 1.0, 5.0), (3, 0.3, 10.0), (3, 3.0, 5.0), (5, 1.0, 5.0)]
)
@pytest.mark.slow
def test_interval_covers_the_truth_in_95_of_100_studies(seeds: int, of_seed: float, noise: float) -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for study in range(400):
        shared = rng.normal(0, 10, (1, 150))
        a = shared + 0.7 + crossed(rng, seeds, 150, of_seed, 5, noise)
        b = shared + crossed(rng, seeds, 150, of_seed, 5, noise)
        found = paired_bootstrap(a, b, samples=1000, seed=study, paired_seeds=True)
        covered += found.low <= 0.7 <= found.high
    # 0.95 ± 3 standard errors of 400 studies; the variance of two seeds is often estimated as 0, which costs a little
    assert (0.90 if seeds == 2 else 0.92) <= covered / 400 <= 0.985


def test_p_value_is_small_for_a_real_difference_and_uniform_without_one() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(0, 1, 200)
    assert paired_bootstrap(base + 1 + rng.normal(0, 0.1, 200), base).p_value == pytest.approx(2 / 10_001)
    values = [paired_bootstrap(rng.normal(0, 1, 100), rng.normal(0, 1, 100), 500, seed=s).p_value for s in range(400)]
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("examples", [2, 3, 5])
def test_few_examples_that_agree_are_not_certain(examples: int) -> None:
    found = paired_bootstrap([[1.0] * examples], [[0.0] * examples])
    assert found.p_value == pytest.approx(stats.binomtest(examples, examples).pvalue)
    assert not significant(found)


def test_equal_arms_show_no_difference() -> None:
    scores = np.random.default_rng(7).random((3, 50))
    found = paired_bootstrap(scores, scores, paired_seeds=True)
    assert (found.difference, found.low, found.high, found.p_value, found.stderr) == (0, 0, 0, 1, 0)


def test_bootstrap_drops_and_counts_examples_unscored_in_either_arm() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.random((2, 30)), rng.random((2, 30))
    a[0, 3], b[1, 7] = math.nan, math.nan
    keep = [n for n in range(30) if n not in (3, 7)]
    found = paired_bootstrap(a, b, samples=500)
    assert (found.examples, found.dropped) == (28, 2)
    assert found.difference == pytest.approx(a[:, keep].mean() - b[:, keep].mean())
    assert math.isnan(paired_bootstrap([math.nan, 1.0], [0.0, 1.0]).p_value)


def test_bootstrap_is_repeatable_and_quick() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.random((5, 500)), rng.random((5, 500))
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = paired_bootstrap(a, b)
    finally:
        sys.setprofile(None)
    assert calls < 2000  # of Python and of NumPy, for 10,000 samples: none is drawn by itself
    assert found == paired_bootstrap(a, b)
    assert found != paired_bootstrap(a, b, seed=1)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2 examples"):
        paired_bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="equally many seeds, not 2 and 1"):
        paired_bootstrap([[1, 2], [2, 3]], [[1, 2]], paired_seeds=True)
    with pytest.raises(ValueError, match="must be"):
        crossed_standard_error(np.zeros((2, 2, 2)))
