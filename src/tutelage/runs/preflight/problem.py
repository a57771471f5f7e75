"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that a run needs and that is missing here."""

    text: str  # one line: what is wrong, where, and what to do
    stops: bool = True  # a run would fail; False: it would do without, or may fail later
