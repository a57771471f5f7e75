"""Teachers: sources of the signal (hidden states and head) that a student is distilled from."""

from tutelage.teachers.local import Teacher

__all__ = ["Teacher"]
