"""Being asked to stop: the step in hand is finished, the state saved, and the same command goes on from there."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from tutelage.common.errors import TutelageError

_patient = False  # whether a second request waits, too, for the state to be saved
_received: list[int] = []  # the signals of the outermost `stop_requests`, kept after it
_open = False  # whether there is one


class Interrupted(TutelageError):
    """The run was asked to stop and has saved its state."""


def become_worker() -> None:
    """From now on somebody else decides when this process stops: Ctrl-C ends nothing here, and however often training
    is asked to stop, it saves its state first. (Who cannot wait ends the parent, which takes this process along.)"""
    global _patient
    _patient = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def asked_to_stop() -> bool:
    """Whether the latest `stop_requests` was, perhaps when there was nothing left to break off."""
    return bool(_received)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """SIGTERM and SIGINT finish the step and save, instead of killing it. A second one kills, but for a worker.

    One within another is the same.
    """
    global _open
    if _open:
        yield _received
        return
    _received.clear()

    def note(number: int, _: Any) -> None:
        _received.append(number)
        if not _patient:
            signal.signal(number, previous[number] or signal.SIG_DFL)

    try:
        previous: dict[int, Any] = {int(s): signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: the caller has its own way to stop
        previous = {}
    _open = True
    try:
        yield _received
    finally:
        _open = False
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
