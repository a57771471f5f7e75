"""Being asked to stop: the step in hand is finished, the state saved, and the same command goes on from there."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from tutelage.types import TutelageError

_patient = False  # whether a second request waits, too, for the state to be saved


class Interrupted(TutelageError):
    """The run was asked to stop and has saved its state."""


def become_worker() -> None:
    """From now on somebody else decides when this process stops: Ctrl-C is not for it, and however often it is asked
    to stop, training saves its state first. (Who cannot wait ends the parent, which takes this process along.)"""
    global _patient
    _patient = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """SIGTERM and SIGINT finish the step and save, instead of killing it. A second one kills, but for a worker."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)
        if not _patient:
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
