"""How the cost of a function grows with its input: a ratio, which is the same on every machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def growth(function: Callable[[int], object], size: int) -> float:
    """CPU time of `function(4 * size)` over that of `function(size)`, each the least of three calls.

    Linear cost gives 4, quadratic 16, cubic 64. Time that other processes take does not count.
    """
    return _least(function, 4 * size) / _least(function, size)


def _least(function: Callable[[int], object], size: int) -> float:
    seconds = []
    gc.disable()
    try:
        for _ in range(3):
            began = time.thread_time()
            function(size)
            seconds.append(time.thread_time() - began)
    finally:
        gc.enable()
    return min(seconds)
