"""What runs will need, checked before the first of them starts."""

from tutelage.runs.preflight.check import find_problems, refuse_problems
from tutelage.runs.preflight.fit import Misfit, blocked, misfits
from tutelage.runs.preflight.problem import Problem

__all__ = ["Misfit", "Problem", "blocked", "find_problems", "misfits", "refuse_problems"]
