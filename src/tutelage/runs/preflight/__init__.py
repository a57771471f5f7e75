"""What runs will need, checked before the first of them starts."""

from tutelage.runs.preflight.problems import Problem, find_problems, refuse_problems

__all__ = ["Problem", "find_problems", "refuse_problems"]
