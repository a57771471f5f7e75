"""What the arms and the forecast itself cost: by the cost model of plans, and on this machine by how long the runs of
the forecast took. A run's seconds here are taken for a + b · work, the work being FLOP on a CPU, and on a GPU the
seconds of the cost model without loading and saving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.common import run_folder
from tutelage.runs.cost.cost_model import START_SECONDS, Cost, CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.kinds import cost_of
from tutelage.runs.run import Run

GPU = "H100"  # the machine that the cost model was fitted on
MOST = 0.1  # share of both arms that a forecast should cost


@dataclass(frozen=True)
class Price:
    """None where the shape of a model is not known, or where no run has been timed yet."""

    gpu_hours: float | None  # on one H100
    dollars: float | None
    seconds: float | None = None  # here, one run after the other


class Prices:
    """Prices of runs. `timed`: finished runs that tell how fast this machine is."""

    def __init__(self) -> None:
        self.model = CostModel(machine(GPU))
        self.timed: list[Run] = []

    def of(self, runs: Sequence[Run]) -> Price:
        """The price of runs together; what is done already is counted as it took."""
        costs = [cost_of(run, self.model) for run in runs]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return Price(None, None, None)
        works, speed = [_work(run, cost) for run, cost in zip(runs, known, strict=True)], self._speed()
        seconds = None if speed is None else speed[0] * len(works) + speed[1] * sum(works)
        return Price(sum(cost.hours for cost in known), sum(cost.dollars for cost in known), seconds)

    def spent(self, runs: Sequence[Run]) -> Price:
        """The price of finished runs, with the seconds that they took."""
        planned = self.of(runs)
        return Price(planned.gpu_hours, planned.dollars, sum(_seconds(run) for run in runs if run.done))

    def work(self, runs: Sequence[Run]) -> float | None:
        """GPU hours of the runs without the seconds that the model assumes for loading and saving, which say nothing of
        small runs in one process; None where the shape of a model is not known."""
        costs = [cost_of(run, self.model) for run in runs]
        known = [cost.hours - START_SECONDS / 3600 for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _speed(self) -> tuple[float, float] | None:
        """a and b by least squares on the timed runs, neither below 0; None where none is timed."""
        costs = [(run, cost_of(run, self.model)) for run in self.timed if run.done]
        pairs = [(_work(run, cost), _seconds(run)) for run, cost in costs if cost is not None]
        return line_through(pairs) if pairs else None


def dear_text(own: Price, both: Price) -> str:
    """What to say of a forecast that costs more than a tenth of the arms that it may save, in a sentence; else empty.

    `both`: the price of both arms, with what they share counted once. Of small recipes the first pilot, which is made
    in any case, is no small part, and on a GPU starting its runs costs more than training.
    """
    here = _share(own.seconds, both.seconds)
    there = _share(own.gpu_hours, both.gpu_hours)
    shares = {"of the time here": here, f"of the GPU hours on an {GPU}": there}
    known = {what: share for what, share in shares.items() if share is not None}
    if not known or max(known.values()) <= MOST:
        return ""
    costs = " and ".join(f"{100 * share:,.0f} % {what}" for what, share in known.items())
    if max(known.values()) < 1:
        return f"This recipe is small: a forecast costs {costs} that both arms take, more than a tenth"
    where = "" if min(known.values()) >= 1 else " here" if here is not None and here >= 1 else f" on an {GPU}"
    return (
        f"This recipe is so small that running it is cheaper than forecasting it{where}: a forecast costs {costs} "
        "that both arms take; `tutelage run` gives the answer itself"
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def line_through(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope of the line through (x, y) with the least squared error, neither below 0; x and y ≥ 0."""
    x, y = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread else 0.0
    start = float(y.mean() - slope * x.mean())
    if slope < 0:
        return float(y.mean()), 0.0
    return (start, slope) if start >= 0 else (0.0, float((x * y).sum() / (x * x).sum()))


def _work(run: Run, cost: Cost) -> float:
    return cost.flops if run.device == "cpu" else 3600 * cost.hours - START_SECONDS


def _seconds(run: Run) -> float:
    return run_folder.read_json(run.folder, run_folder.RESULT)["seconds"]
