"""Seconds on this machine, from runs that were timed."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.forecasting.price import line_through


def test_seconds_are_the_least_squares_line_that_is_never_below_0() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, 12)
    y = 3.0 + 2.0 * x + rng.normal(0, 0.1, 12)
    slope, start = np.polyfit(x, y, 1)
    assert line_through(list(zip(x, y, strict=True))) == pytest.approx((start, slope))
    assert line_through([(1.0, 5.0), (2.0, 3.0)]) == (4.0, 0.0)
    assert line_through([(1.0, 0.5), (2.0, 3.0)]) == (0.0, pytest.approx(6.5 / 5.0))
    assert line_through([(2.0, 7.0)]) == (7.0, 0.0)
