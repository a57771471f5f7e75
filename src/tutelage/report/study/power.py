"""How much more data would tell what a study could not tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from tutelage.evaluation.statistics import Paired

Question = Literal["more", "no less", "equal"]  # is a difference above 0, above −effect, or within ± effect?
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Needed:
    """What would tell, each alone: a multiple of the test rows, or a number of seeds; None where it alone never would,
    or where one seed says nothing about the others. `both`: a multiple of rows and seeds together."""

    rows: float | None
    seeds: int | None
    both: float


def needed(versus: Paired, seeds: int, effect: float, question: Question = "more") -> Needed:
    """The data with which a comparison like `versus`, of `seeds` seeds, tells with a probability of 80 %.

    The squared standard error of a difference is e² + s², where e² falls with the number of test rows and s² with the
    number of seeds S. A true difference of `effect` is shown at p < 0.05 (two-sided) with 80 % power if

        √(e² + s²) ≤ effect / (z₀.₉₇₅ + z₀.₈) = effect / 2.80.

    To tell that a difference is above −`effect` takes the same where the truth is 0; to tell that it is within
    ± `effect`, both ends must be, so z₀.₉ replaces z₀.₈ (3.24). Hence n times the rows, with n = e² / (target² − s²);
    and the smallest number of seeds N with √(t²·s²·S / N + z²·e²) ≤ effect, where t is the same sum of quantiles of
    Student's t with N − 1 degrees of freedom, since the variance of few seeds is itself uncertain.

    `effect` is positive, in the unit of the scores.
    """
    tail = (1 + POWER) / 2 if question == "equal" else POWER
    sum_z = _z(0.975) + _z(tail)
    target = (effect / sum_z) ** 2
    of_seeds = versus.seed_stderr**2
    of_rows = max(versus.stderr**2 - of_seeds, 0.0)
    rows = of_rows / (target - of_seeds) if target > of_seeds else None
    enough = None
    if seeds > 1 and of_rows < target:
        for count in range(max(seeds, 3) + 1, MOST_SEEDS + 1):
            sum_t = student_t(0.975, count - 1) + student_t(tail, count - 1)
            if sum_t**2 * of_seeds * seeds / count + sum_z**2 * of_rows <= effect**2:
                enough = count
                break
    return Needed(rows, enough, versus.stderr**2 / target)


def needed_text(found: Needed, seeds: int, rows: int, effect: str) -> str:
    """The end of a sentence, such as "an effect of 1 point could be told with 3.2 × the test rows (1,600)"."""
    if found.both <= 1:
        return f"these data tell an effect of {effect} in four of five repetitions or more"
    ways = []
    if found.rows is not None:
        ways.append(f"{found.rows:.1f} × the test rows ({math.ceil(found.rows * rows):,})")
    if found.seeds is not None:
        ways.append(f"{found.seeds} seeds")
    if not ways:
        ways.append(f"{found.both:.1f} × the test rows and as many × the seeds ({math.ceil(found.both * seeds)})")
    one = " of these two training runs" if seeds == 1 else ""
    return f"an effect of {effect}{one} could be told with {' or '.join(ways)}"


def student_t(share: float, degrees: int) -> float:
    """A quantile of Student's t by its expansion around the normal's; within 2 % for 3 degrees of freedom or more."""
    z, n = _z(share), float(degrees)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _z(share: float) -> float:
    return NormalDist().inv_cdf(share)
