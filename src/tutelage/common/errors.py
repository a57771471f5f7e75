"""The error for mistakes that a user can correct, and what its messages are made of."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TutelageError(Exception):
    """A mistake that the user can correct. Its message is one line: what is wrong, where, what to do.

    The command line prints that line and exits with status 1.
    """


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return "did you mean `x`?" for the known name most similar to `name`, or `otherwise` if none is similar."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else otherwise


def one_line(error: BaseException) -> str:
    """Another library's error, of which some are pages long, for a message of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
