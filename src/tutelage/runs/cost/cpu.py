"""What a run takes on this machine's CPU, for which the cost model's formulas were not fitted.

A product of matrices is timed; a training or reading pass is taken to reach 70 % of its rate, a decoding step to read
the weights once, and AdamW to move 28 bytes per weight and step, both at 10 GB/s. By this and measured, all runs of a
recipe with the built-in model: the demo on two quiet cores 266 s and 224; 42 rows of 60 tokens with one thread 197 s
and 212 of CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

SHARE, ADAM_BYTES, BANDWIDTH = 0.7, 28, 1e10
BUSY = 1.25  # times as long as on quiet cores from which on it is said
_QUIET = 0.9  # share of the cores' time that threads have where nothing else runs
START = 3.0  # seconds to load and save


@dataclass(frozen=True)
class Pace:
    """How fast this machine computes.

    `rate`: FLOP/s of float32 products of matrices on as many cores as torch uses, were they quiet. `busy`: how many
    times as long work takes beside what else runs here at this moment; 1 on quiet cores.
    """

    rate: float
    busy: float = 1.0


@cache
def measured_pace(seconds: float = 0.5, size: int = 1024) -> Pace:
    """This machine's pace, measured for so many seconds and half as long again.

    The rate is that of the fastest product of one thread, per second of CPU time, times the threads: what other
    programs take is not in it, and threads that wait for each other, which count as CPU time, are not there. Where all
    threads have their cores, and yet are slower (two of one core), theirs counts.
    """
    import torch

    a, threads = torch.randn(size, size), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = min(_product_times(a, seconds / 2, time.thread_time))
    finally:
        torch.set_num_threads(threads)
    work, computed, began = 2 * size**3, time.process_time(), time.perf_counter()
    together = _product_times(a, seconds, time.perf_counter)
    had = (time.process_time() - computed) / threads / (time.perf_counter() - began)  # of the cores
    rate = threads * work / alone
    if had > _QUIET:
        return Pace(min(rate, work / min(together)))
    return Pace(rate, max(1.0, rate * sum(together) / len(together) / work))


def busy_note() -> list[str]:
    """That the cores are busy, if they are, for who expects the time of quiet ones."""
    busy = measured_pace().busy
    if busy <= BUSY:
        return []
    return [f"other programs keep the cores busy: at this moment work takes {busy:.1f} times as long as on quiet ones"]


def _product_times(a: Tensor, seconds: float, clock: Callable[[], float]) -> list[float]:
    """What products of `a` with itself take by the clock, after one that starts the threads."""
    import torch

    torch.mm(a, a)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() < began + seconds or not times:
        before = clock()
        torch.mm(a, a)
        times.append(max(clock() - before, 1e-9))
    return times


def cpu_seconds(run: Run, cost: Cost, model: CostModel, pace: Pace) -> float:
    """Seconds that the run takes here, beside what else runs here now. `cost`: what `model` says of it."""
    shapes = [shape for role in run.models if (shape := model.shape(run, role)) is not None]
    smallest = min(shapes, key=lambda shape: shape.weights, default=None)
    seconds = cost.flops / (SHARE * pace.rate) + START
    if smallest is not None:
        seconds += cost.sampled / max((1, *cost.rows)) * 4 * smallest.weights / BANDWIDTH
    if run.training is not None and smallest is not None:
        seconds += model.steps(run) * smallest.weights * ADAM_BYTES / BANDWIDTH
    return seconds * pace.busy
