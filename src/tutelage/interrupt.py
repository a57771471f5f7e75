"""Being asked to stop: the step in hand is finished, the state saved, and the same command goes on from there."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from tutelage.types import TutelageError


class Interrupted(TutelageError):
    """The run was asked to stop and has saved its state."""


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """SIGTERM and SIGINT finish the step and save, instead of killing it. A second one kills."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number] or signal.SIG_DFL)

    try:
        previous: dict[int, Any] = {int(s): signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: the caller has its own way to stop
        previous = {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
