"""How the cost of a function grows with its input: a ratio, which is the same on every machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

LINEAR = 5.0


def growth(function: Callable[[int], object], size: int) -> float:
    """CPU time of `function(4 * size)` over that of `function(size)`, each the least of three calls.

    Linear cost gives 4, quadratic 16, cubic 64. Time that other processes take does not count. The long call is made
    once if that gives no more than `LINEAR`: a shorter time would give less still.
    """
    least = min(_seconds(function, size) for _ in range(3))
    most = _seconds(function, 4 * size)
    if most > LINEAR * least:
        most = min(most, *(_seconds(function, 4 * size) for _ in range(2)))
    return most / least


def _seconds(function: Callable[[int], object], size: int) -> float:
    gc.disable()
    try:
        began = time.thread_time()
        function(size)
        return time.thread_time() - began
    finally:
        gc.enable()
