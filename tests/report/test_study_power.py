"""The data that a study would need, against simulated studies and scipy's tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tutelage.evaluation.statistics import Paired, paired_bootstrap
from tutelage.report.study.power import needed, needed_text, student_t


def paired(stderr: float, seed_stderr: float = 0.0, examples: int = 100) -> Paired:
    return Paired(0.0, -1.0, 1.0, 1.0, stderr, examples, 0, seed_stderr)


@pytest.mark.parametrize("share", [0.8, 0.9, 0.975])
@pytest.mark.parametrize("degrees", [3, 4, 7, 20, 200])
def test_students_quantiles(share: float, degrees: int) -> None:
    assert student_t(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=0.02)


def test_rows_of_one_pair_of_runs() -> None:
    """A pilot of 100 rows; then studies of as many rows as it asks for show the effect four times in five."""
    rng = np.random.default_rng(0)
    effect, deviation = 1.0, 8.0
    pilot = rng.normal(0, 1, 100)
    pilot = deviation * (pilot - pilot.mean()) / pilot.std(ddof=1)
    found = needed(paired_bootstrap(pilot, np.zeros(100)), 1, effect)
    assert found.rows is not None
    assert found.seeds is None  # one seed says nothing about others
    rows = math.ceil(found.rows * 100)
    assert rows == pytest.approx((2.8016 * deviation / effect) ** 2, abs=2)
    studies = rng.normal(effect, deviation, (4000, rows))
    assert np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("deviation", [0.8, 1.0, 2.0])
def test_seeds_whose_variance_is_uncertain(deviation: float) -> None:
    """All of the error is the seeds'; Student's test of as many seeds has the power, of two less it has not."""
    rng = np.random.default_rng(1)
    found = needed(paired(deviation / math.sqrt(3), deviation / math.sqrt(3)), 3, 1.0)
    assert found.rows is None  # rows alone never would
    assert found.seeds is not None
    power = {}
    for seeds in (found.seeds - 2, found.seeds):
        studies = rng.normal(1.0, deviation, (8000, seeds))
        power[seeds] = np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05)
    assert power[found.seeds] == pytest.approx(0.83, abs=0.05)
    assert power[found.seeds - 2] < 0.8


def test_rows_beside_seeds() -> None:
    """Crossed effects of 20 seeds and of examples: the normal test with the known error of as many rows."""
    rng = np.random.default_rng(2)
    of_seeds, of_rows, effect = 0.2, 0.6, 1.0
    found = needed(paired(math.hypot(of_seeds, of_rows), of_seeds), 20, effect)
    assert found.rows is not None
    error = math.hypot(of_seeds, of_rows / math.sqrt(found.rows))
    shown = np.abs(rng.normal(effect, error, 40_000)) > stats.norm.ppf(0.975) * error
    assert shown.mean() == pytest.approx(0.8, abs=0.01)
    assert found.both == pytest.approx((of_seeds**2 + of_rows**2) / error**2)


@pytest.mark.parametrize(("question", "ends"), [("no less", "low"), ("equal", "both")])
def test_margins(question: str, ends: str) -> None:
    """The truth is 0: the interval's lower end, or both ends, are within the margin four times in five."""
    rng = np.random.default_rng(3)
    found = needed(paired(1.5), 1, 1.0, "equal" if question == "equal" else "no less")
    assert found.rows is not None
    error = 1.5 / math.sqrt(found.rows)
    middle, half = rng.normal(0, error, 40_000), 1.959964 * error
    inside = middle - half > -1.0
    if ends == "both":
        inside &= middle + half < 1.0
    assert inside.mean() == pytest.approx(0.8, abs=0.01)


def test_in_words() -> None:
    assert needed_text(needed(paired(0.8), 1, 1.0), 1, 500, "1 point") == (
        "an effect of 1 point of these two training runs could be told with 5.0 × the test rows (2,512)"
    )
    three = needed_text(needed(paired(0.5, 0.3), 3, 1.0), 3, 500, "1 point")
    assert three == "an effect of 1 point could be told with 4.3 × the test rows (2,139)"
    assert needed_text(needed(paired(0.4, 0.3), 3, 1.0), 3, 500, "1 point").endswith(" or 7 seeds")
    neither = needed_text(needed(paired(0.8, 0.5), 3, 1.0), 3, 500, "1 point")
    assert neither == "an effect of 1 point could be told with 5.0 × the test rows and as many × the seeds (16)"
    assert needed_text(needed(paired(0.3), 3, 1.0), 3, 500, "1 point").startswith(
        "these data tell an effect of 1 point"
    )
