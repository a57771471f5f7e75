"""Two results compared: by how much they differ, with interval and p."""

from __future__ import annotations

from tutelage.evaluation.statistics import Paired, paired_bootstrap
from tutelage.report.scores import MetricValue


def compare(left: MetricValue, right: MetricValue) -> Paired:
    """Left minus right by paired bootstrap over the same examples; seeds are paired where both have the same ones.

    Both must have evaluations. All numbers are nan where fewer than two examples are scored in both.
    """
    paired = left.seeds == right.seeds and len(left.seeds) > 1
    return paired_bootstrap(left.scores, right.scores, paired_seeds=paired)


def swapped(versus: Paired) -> Paired:
    """Right minus left, from left minus right; 0 − x, because −x would make a zero negative."""
    return Paired(
        difference=0 - versus.difference,
        low=0 - versus.high,
        high=0 - versus.low,
        p_value=versus.p_value,
        stderr=versus.stderr,
        examples=versus.examples,
        dropped=versus.dropped,
        seed_stderr=versus.seed_stderr,
    )
