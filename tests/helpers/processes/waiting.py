"""Waiting for what must come, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
HANG = 600.0  # seconds: only something that hangs takes so long


def wait_for(condition: Callable[[], T], what: str) -> T:
    """The first true value of `condition()`. `what` is named if it never comes."""
    end = time.monotonic() + HANG
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {HANG:.0f} s for {what}"
        time.sleep(0.005)
    return value
