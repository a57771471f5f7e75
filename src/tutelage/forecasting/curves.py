"""Learning curves: how a number changes with the rows, from few and noisy sizes.

    y(n) = a + b · (n / n₀)^(−c),   n₀ the smallest size

`c` is on a grid; given it, y is linear in a and b, whose normal priors and the normal errors of the sizes make the
posterior exact. The marginal likelihoods weigh the values of c. So an extrapolation has the uncertainty of all three,
and of one size alone follows little more than the prior says. The difference of two curves is taken for such a curve
too, with a = 0 where it dies out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.forecasting.mixture import Mixture, mixture

EXPONENTS = np.geomspace(0.05, 2.0, 150)
EXPONENT, SPREAD = 0.4, 0.8  # the prior of c is log-normal: its median, and the standard deviation of log c


@dataclass(frozen=True)
class Curve:
    """The posterior of a learning curve: per exponent its weight, and mean and covariance of (a, b)."""

    smallest: float  # n₀
    weights: NDArray[np.float64]  # [K]
    means: NDArray[np.float64]  # [K, 2]
    covariances: NDArray[np.float64]  # [K, 2, 2]

    def at(self, rows: float) -> Mixture:
        """What the curve is at `rows` rows."""
        return self._of(np.stack([np.ones_like(EXPONENTS), (rows / self.smallest) ** -EXPONENTS], 1))

    def change(self, rows: float, more: float) -> Mixture:
        """y(more) − y(rows)."""
        falls = (more / self.smallest) ** -EXPONENTS - (rows / self.smallest) ** -EXPONENTS
        return self._of(np.stack([np.zeros_like(EXPONENTS), falls], 1))

    def _of(self, design: NDArray[np.float64]) -> Mixture:
        means = np.einsum("ki,ki->k", design, self.means)
        variances = np.einsum("ki,kij,kj->k", design, self.covariances, design)
        return mixture(self.weights.tolist(), means.tolist(), np.sqrt(np.maximum(variances, 1e-18)).tolist())


def fit_curve(
    rows: Sequence[float],
    values: Sequence[float],
    errors: Sequence[float],
    level: tuple[float, float],
    fall: tuple[float, float],
) -> Curve:
    """The posterior of the curve through `values`, which have standard errors `errors`, at sizes `rows`.

    `level` and `fall`: mean and standard deviation of the priors of a and b; b is what is gained between the smallest
    size and infinitely many rows, with its sign changed. Raises ValueError without a size, or for rows below 1.
    """
    sizes, observed = np.asarray(rows, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if sizes.size == 0 or (sizes < 1).any():
        raise ValueError("a curve needs at least one size, of one row or more")
    noise = np.maximum(np.asarray(errors, dtype=np.float64), 1e-9) ** 2
    prior, spread_prior = np.array([level[0], fall[0]]), np.diag([level[1] ** 2, fall[1] ** 2])
    precision = np.linalg.inv(spread_prior)
    design = np.stack(  # [K, N, 2]
        np.broadcast_arrays(1.0, (sizes / sizes.min())[None, :] ** -EXPONENTS[:, None]), 2
    )
    covariances = np.linalg.inv(precision + np.einsum("kni,n,knj->kij", design, 1 / noise, design))
    right = precision @ prior + np.einsum("kni,n->ki", design, observed / noise)
    means = np.einsum("kij,kj->ki", covariances, right)
    spread = np.diag(noise) + design @ spread_prior @ design.transpose(0, 2, 1)  # [K, N, N]
    off = observed - design @ prior  # [K, N]
    solved = np.linalg.solve(spread, off[..., None])[..., 0]
    logs = -0.5 * (np.einsum("kn,kn->k", off, solved) + np.linalg.slogdet(spread)[1])
    log_weights = logs - 0.5 * (np.log(EXPONENTS / EXPONENT) / SPREAD) ** 2
    weights = np.exp(log_weights - log_weights.max())
    return Curve(float(sizes.min()), weights / weights.sum(), means, covariances)
