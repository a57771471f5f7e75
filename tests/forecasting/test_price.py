"""Seconds on this machine, from runs that were timed."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.forecasting.price import Price, dear_text, line_through


def test_seconds_are_the_least_squares_line_that_is_never_below_0() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, 12)
    y = 3.0 + 2.0 * x + rng.normal(0, 0.1, 12)
    slope, start = np.polyfit(x, y, 1)
    assert line_through(list(zip(x, y, strict=True))) == pytest.approx((start, slope))
    assert line_through([(1.0, 5.0), (2.0, 3.0)]) == (4.0, 0.0)
    assert line_through([(1.0, 0.5), (2.0, 3.0)]) == (0.0, pytest.approx(6.5 / 5.0))
    assert line_through([(2.0, 7.0)]) == (7.0, 0.0)


SMALL = "This recipe is so small that running it is cheaper than forecasting it"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Price(0.05, 0.1, 50.0), ""),
        (Price(0.05, 0.1, 210.0), "This recipe is small: a forecast costs 21 % of the time here and 5 % of the GPU "
                                  "hours on an H100 that both arms take, more than a tenth"),
        (Price(2.0, 5.0, 210.0), f"{SMALL} on an H100: a forecast costs 21 % of the time here and 200 % of the GPU "
                                 "hours on an H100 that both arms take; `tutelage run` gives the answer itself"),
        (Price(0.05, 0.1, 1000.0), f"{SMALL} here: "),
        (Price(2.0, 5.0, 1000.0), f"{SMALL}: "),
        (Price(None, None, 210.0), "This recipe is small: a forecast costs 21 % of the time here that both arms take"),
        (Price(None, None), ""),
    ],
)  # fmt: skip
def test_a_forecast_that_costs_more_than_a_tenth_says_so(own: Price, said: str) -> None:
    found = dear_text(own, Price(1.0, 2.5, 1000.0))
    assert found.startswith(said)
    assert bool(found) == bool(said)
