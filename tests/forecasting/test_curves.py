"""Curves on made-up data with a known truth: exact without noise, and intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import norm

from tutelage.forecasting.curves import EXPONENT, SPREAD, fit_curve
from tutelage.forecasting.mixture import mixture

SIZES = np.array([50.0, 100.0, 200.0, 400.0, 800.0, 1600.0])


def power(n, a, b, c):
    return a + b * (n / 50.0) ** -c


def test_without_noise_the_curve_is_the_true_one() -> None:
    curve = fit_curve(SIZES, power(SIZES, 30.0, -20.0, 0.5), np.full(6, 0.01), (20.0, 30.0), (0.0, 30.0))
    for rows in (60.0, 1000.0, 10_000.0):
        assert curve.at(rows).mean == pytest.approx(power(rows, 30.0, -20.0, 0.5), abs=0.05)
    assert curve.change(1000.0, 2000.0).mean == pytest.approx(
        power(2000.0, 30.0, -20.0, 0.5) - power(1000.0, 30.0, -20.0, 0.5), abs=0.02
    )


def test_with_noise_it_agrees_with_least_squares() -> None:
    rng = np.random.default_rng(0)
    values = power(SIZES, 30.0, -20.0, 0.6) + rng.normal(0, 0.2, 6)
    found, _ = curve_fit(power, SIZES, values, p0=(25.0, -15.0, 0.4))
    curve = fit_curve(SIZES, values, np.full(6, 0.2), (20.0, 100.0), (0.0, 100.0))
    assert curve.at(3200.0).mean == pytest.approx(power(3200.0, *found), abs=0.4)


def test_one_size_says_little_about_ten_times_as_many_rows() -> None:
    curve = fit_curve([50.0], [2.0], [0.1], (0.0, 3.0), (0.0, 3.0))
    assert curve.at(50.0).mean == pytest.approx(2.0, abs=0.05)
    assert curve.at(50.0).deviation < 0.11
    far = curve.at(800.0)
    assert 0.8 < far.mean < 1.8  # between what was seen and the prior's mean
    assert far.deviation > 1.0


def test_no_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one size"):
        fit_curve([], [], [], (0.0, 1.0), (0.0, 1.0))


@pytest.mark.slow
def test_intervals_of_extrapolations_cover_the_truth() -> None:
    """Truths drawn from the prior, three sizes with noise, and the size that a recipe would have: 80 % are inside."""
    rng, inside, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        a, b, c = rng.normal(0, 3), rng.normal(0, 3), np.exp(np.log(EXPONENT) + SPREAD * rng.normal())
        sizes = np.array([50.0, 100.0, 200.0])
        values = power(sizes, a, b, c) + rng.normal(0, 0.5, 3)
        low, high = fit_curve(sizes, values, np.full(3, 0.5), (0.0, 3.0), (0.0, 3.0)).at(800.0).interval()
        inside += low <= power(800.0, a, b, c) <= high
    assert 0.74 < inside / trials < 0.86


def test_a_mixture_is_the_sum_of_its_parts() -> None:
    one = mixture([1.0, 3.0], [0.0, 2.0], [1.0, 0.5])
    assert one.mean == pytest.approx(1.5)
    assert one.deviation == pytest.approx(np.sqrt(0.25 * 1 + 0.75 * (4 + 0.25) - 1.5**2))
    for value in (-1.0, 0.7, 2.2):
        expected = 0.25 * norm.cdf(value) + 0.75 * norm.cdf((value - 2.0) / 0.5)
        assert one.below(value) == pytest.approx(expected, abs=1e-12)
        assert one.quantile(expected) == pytest.approx(value, abs=1e-6)
    assert one.scaled(2.0).interval() == pytest.approx(tuple(2 * end for end in one.interval()))
