"""Synthetic rows (eq. 4–6): new inputs from demonstrations, the teacher's answers, filters."""

from tutelage.synthesis.synthesis import Synthesis

__all__ = ["Synthesis"]
