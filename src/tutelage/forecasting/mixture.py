"""A mixture of normal distributions: what a forecast says of a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.8  # of the intervals of a forecast
_ROOT_2 = math.sqrt(2)


@dataclass(frozen=True)
class Mixture:
    """Weights that add up to 1, means, and standard deviations above 0."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return sum(w * m for w, m in zip(self.weights, self.means, strict=True))

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        mean = self.mean
        parts = zip(self.weights, self.means, self.deviations, strict=True)
        return math.sqrt(sum(w * (s * s + (m - mean) ** 2) for w, m, s in parts))

    def below(self, value: float) -> float:
        """The probability of less than `value`."""
        parts = zip(self.weights, self.means, self.deviations, strict=True)
        return sum([w * 0.5 * (1 + math.erf((value - m) / (s * _ROOT_2))) for w, m, s in parts])

    def quantile(self, share: float) -> float:
        """The value that has probability `share` below it, by bisection, to 1e-9 of the spread."""
        low = min(m - 9 * s for m, s in zip(self.means, self.deviations, strict=True))
        high = max(m + 9 * s for m, s in zip(self.means, self.deviations, strict=True))
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.below(middle) < share else (low, middle)
        return (low + high) / 2

    def interval(self, share: float = SHARE) -> tuple[float, float]:
        """The ends of the central interval with probability `share`."""
        return self.quantile((1 - share) / 2), self.quantile((1 + share) / 2)

    def measured(self, error: float) -> Mixture:
        """The distribution of a measurement of the number with standard error `error`."""
        return Mixture(self.weights, self.means, tuple(math.hypot(s, error) for s in self.deviations))

    def scaled(self, factor: float) -> Mixture:
        """The distribution of `factor` times the number; `factor` > 0."""
        return Mixture(self.weights, tuple(factor * m for m in self.means), tuple(factor * s for s in self.deviations))


def mixture(weights: Sequence[float], means: Sequence[float], deviations: Sequence[float]) -> Mixture:
    """A mixture with weights in any proportion. Parts with less than a millionth of the weight are left out."""
    total = sum(weights)
    kept = [part for part in zip(weights, means, deviations, strict=True) if part[0] > 1e-6 * total]
    total = sum(weight for weight, _, _ in kept)
    columns = [(float(w / total), float(m), float(s)) for w, m, s in kept]
    return Mixture(*(tuple(column[place] for column in columns) for place in range(3)))  # type: ignore[arg-type]
