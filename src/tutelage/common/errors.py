"""The error for mistakes that a user can mend, and the hint that goes with a misspelt name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TutelageError(Exception):
    """A mistake the user can mend. The command line prints its one line (what, where, what to do) and exits with 1."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return "did you mean `x`?" with the known name nearest to `name`, or `otherwise` when none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else otherwise
