"""The error for mistakes that a user can correct, and what its messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
NAMED = 3  # items of a list that a message names


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
    return f"there are {listed([str(one) for one in there])}" if there else otherwise


def one_line(error: BaseException) -> str:
    """Another library's error, of which some are pages long, for a message of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def first_of(items: Sequence[T], most: int = NAMED, count: int | None = None) -> tuple[list[T], int]:
    """The first `most` items, or one more where it alone would be left out, and how many are left out.

    `count`: of all items, where these are the first; `most` + 1 of them are enough.
    """
    count = len(items) if count is None else count
    shown = list(items[: most + (count == most + 1)])
    return shown, count - len(shown)


def and_joined(items: Sequence[str]) -> str:
    """All items: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def listed(items: Sequence[str], most: int = NAMED, count: int | None = None, between: str = ", ") -> str:
    """The items of `first_of` in one line: "a, b, c and 5 more"."""
    shown, left = first_of(items, most, count)
    more = f"{' ' if between == ', ' else between}{'and ' * (between == ', ')}{left:,} more"
    return between.join(shown) + (more if left else "")
