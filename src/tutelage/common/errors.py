"""The one exception that a user can cause and mend."""

from __future__ import annotations


class TutelageError(Exception):
    """A mistake the user can mend. The command line prints its one line (what, where, what to do) and exits with 1."""
