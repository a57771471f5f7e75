"""What a run takes on this machine's CPU, for which the cost model's formulas were not fitted.

A product of matrices is timed; a training or reading pass is taken to reach 70 % of its rate, a decoding step to read
the weights once, and AdamW to move 28 bytes per weight and step, both at 10 GB/s. Seconds by this, and half of the CPU
time measured on two busy cores (64M student, 135M teacher, 210 rows of 53 tokens, read twice): SFT 48 and 48; healing
on 320 rows 52 and 38; the teacher's SFT, once, 51 and 66; GKD 80 and 118; 60 answers 5 and 3.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.run import Run

SHARE, ADAM_BYTES, BANDWIDTH = 0.7, 28, 1e10
START = 3.0  # seconds to load and save


@dataclass(frozen=True)
class Pace:
    """How fast this machine computes.

    `rate`: FLOP/s of float32 products of matrices on as many cores as torch uses, were they quiet. `busy`: how many
    times as long work takes beside what else runs here now; 1 on quiet cores.
    """

    rate: float
    busy: float = 1.0


@cache
def measured_pace(seconds: float = 0.5, size: int = 1024) -> Pace:
    """This machine's pace, measured for so many seconds.

    The rate is per second of CPU time, which other programs do not take; they take the time in which no thread of ours
    had a core.
    """
    import torch

    a, threads, products = torch.randn(size, size), torch.get_num_threads(), 0
    torch.mm(a, a)  # starts the threads
    began, computed = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        torch.mm(a, a)
        products += 1
    per_core = max(time.process_time() - computed, 1e-6) / threads
    return Pace(products * 2 * size**3 / per_core, max(1.0, (time.perf_counter() - began) / per_core))


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
