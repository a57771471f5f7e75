"""What a run will need: time and memory."""

from tutelage.runs.cost.cost_model import CostModel

__all__ = ["CostModel"]
