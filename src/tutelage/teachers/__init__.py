"""Where the teacher's signal comes from."""

from tutelage.teachers.local import Teacher

__all__ = ["Teacher"]
