"""The error for mistakes that a user can correct, and what its messages are made of."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class TutelageError(Exception):
    """A mistake that the user can correct. Its message is one line: what is wrong, where, what to do.

    The command line prints that line and exits with status 1.
    """


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return "did you mean `x`?" for the known name most similar to `name`, or `otherwise` if none is similar."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else otherwise


def instead_of(absent: Path, ends: tuple[str, ...], otherwise: str) -> str:
    """What to give in place of a file that is not there: the one of its folder with a similar name, else those that
    there are, else `otherwise`. `ends`: of the names that count."""
    there = sorted(one for one in absent.parent.glob("*") if one.name.endswith(ends))
    stems = {one.name.partition(".")[0]: one for one in there}
    near = get_close_matches(absent.name.partition(".")[0], stems, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{stems[near[0]]}`?"
    more = f" and {len(there) - 3} more" * (len(there) > 3)
    return f"there are {', '.join(map(str, there[:3]))}{more}" if there else otherwise


def one_line(error: BaseException) -> str:
    """Another library's error, of which some are pages long, for a message of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
