"""What the arms and the forecast itself cost: by the cost model of plans, and on this machine by how long the runs of
the forecast took beside what the model says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.common import run_folder
from tutelage.runs.cost.cost_model import START_SECONDS, CostModel
from tutelage.runs.cost.facts import machine
from tutelage.runs.kinds import cost_of
from tutelage.runs.run import Run

GPU = "H100"  # the machine that the cost model was fitted on


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
        hours, speed = sum(cost.hours for cost in known), self._speed()
        return Price(hours, sum(c.dollars for c in known), None if speed is None else 3600 * hours * speed)

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

    def _speed(self) -> float | None:
        """Seconds here per second of the model."""
        pairs = [(_seconds(run), cost_of(run, self.model)) for run in self.timed if run.done]
        planned = sum(3600 * cost.hours for _, cost in pairs if cost is not None)
        return sum(seconds for seconds, cost in pairs if cost is not None) / planned if planned else None


def _seconds(run: Run) -> float:
    return run_folder.read_json(run.folder, run_folder.RESULT)["seconds"]
