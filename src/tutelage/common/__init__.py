"""Used by every package: errors, types, files, hashes, progress. Knows nothing about models."""

from tutelage.common.errors import TutelageError

__all__ = ["TutelageError"]
