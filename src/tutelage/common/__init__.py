"""What every package needs: errors, types, files, hashes, progress. Knows nothing of models."""

from tutelage.common.errors import TutelageError

__all__ = ["TutelageError"]
