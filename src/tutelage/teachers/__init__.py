"""Teachers: sources of the signal that a student is distilled from, each with the same two methods (`protocol.py`)."""

from tutelage.teachers.local import LocalTeacher
from tutelage.teachers.protocol import Teacher

__all__ = ["LocalTeacher", "Teacher"]
