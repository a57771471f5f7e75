"""Requests to stop: SIGTERM and Ctrl-C let training finish its step and save, so that the same command can resume."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from tutelage.common.errors import TutelageError

_is_worker = False  # a worker saves its state however often it is asked to stop
_received: list[int] = []  # signals received during the latest outermost `stop_requests`
_active = False  # whether a `stop_requests` is active
_last = int(signal.SIGINT)  # the signal that asked to stop
_STOPPING = b"\nstopping when the step is done and saved; once more: at once, and what is not saved is lost\n"


class Interrupted(TutelageError):
    """The run was asked to stop and has saved its state."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what Ctrl-C would end and tidy up ends in the same way."""


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise Terminated in the block, unless the process was started to ignore it."""
    global _last
    _last = int(signal.SIGINT)

    def end(number: int, _: Any) -> None:
        global _last
        _last = number
        raise Terminated

    previous: Any = signal.getsignal(signal.SIGTERM)
    try:
        if previous is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, end)
    except ValueError:  # in another thread than the main one, which gets the signals
        previous = signal.SIG_IGN
    try:
        yield
    finally:
        if previous is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def stop_code() -> int:
    """The exit code of a process that was asked to stop: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + _last


def become_worker() -> None:
    """Mark this process as a worker: it ignores Ctrl-C, and every request to stop lets training save first.

    Its parent ends it: by SIGTERM, which a forked one would otherwise turn into Terminated. Raised in a worker that
    waits for work, just when it gets the lock of the tasks, that leaves the lock held, and other workers wait for ever.
    """
    global _is_worker
    _is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def say_stopping() -> None:
    """Tell a person at a terminal that a request was heard: a step may go on for half a minute."""
    if os.isatty(2):
        os.write(2, _STOPPING)  # a signal may come while a buffered stream writes, which then takes no other


def asked_to_stop() -> bool:
    """Whether a request came during the latest `stop_requests`, even if too late to interrupt anything."""
    return bool(_received)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in the list that is yielded, instead of ending the process.

    The caller looks at the list after each step. A second signal has its usual effect, except in a worker. A nested
    call yields the list of the outer one.
    """
    global _active
    if _active:
        yield _received
        return
    _received.clear()

    def record(number: int, _: Any) -> None:
        global _last
        _last = number
        _received.append(number)
        if not _is_worker:
            signal.signal(number, previous[number] or signal.SIG_DFL)
            say_stopping()

    try:
        previous: dict[int, Any] = {int(s): signal.signal(s, record) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # signal handlers need the main thread; other threads are stopped by their caller
        previous = {}
    _active = True
    try:
        yield _received
    finally:
        _active = False
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
