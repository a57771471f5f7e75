"""Synthetic rows, eq. 4 to 6: new inputs, the teacher's answers, filters."""

from tutelage.synthesis.synthesis import Synthesis

__all__ = ["Synthesis"]
