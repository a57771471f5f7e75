"""What a run takes on this machine's CPU, for which the cost model's formulas were not fitted.

A product of matrices is timed; a training or reading pass is taken to reach 70 % of its rate, a decoding step to read
the weights once, and AdamW to move 28 bytes per weight and step, both at 10 GB/s; the loss passes over the vocabulary.
By this and measured, all of `tutelage run` with the built-in model on two quiet cores: the demo 230 s and 227; 296 rows
of 87 tokens 713 s and 756, of which GKD 228 and 274 (own answers take longer with two threads than is counted here);
by phases in LOG.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tutelage.recipe.sections import TaskConfig
from tutelage.recipe.stages import DistillStage, MethodStage
from tutelage.runs.cost.cost_model import Cost, CostModel
from tutelage.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from tutelage.runs.cost.facts import Rows, Shape

SHARE, ADAM_BYTES, BANDWIDTH = 0.7, 28, 1e10
# Of the loss and its gradient per response token and entry of the vocabulary, beside products of matrices: so many
# operations of a product would take as long, 7 and 26 ns where one thread has 100 GFLOP/s.
CROSS_ENTROPY, DIVERGENCE = 700, 2600
BUSY = 1.25  # times as long as on quiet cores from which on it is said
_QUIET = 0.9  # share of the cores' time that threads have where nothing else runs
START = 3.0  # seconds of a run to load and save
COMMAND = 10.0  # seconds of the command beside its runs: torch is loaded, models are checked, the report is written


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
    seconds = cost.flops / (SHARE * pace.rate)
    if smallest is not None:
        batch = max((1, *cost.rows))
        seconds += (cost.sampled / batch + _last_steps(run, model, batch)) * _decoding_step(smallest, batch)
    if run.training is not None and smallest is not None:
        student, rows = model.shape(run, "student") or smallest, model.trained_on(run)
        work = DIVERGENCE if isinstance(run.config, DistillStage) else CROSS_ENTROPY
        seconds += cost.tokens * rows.response / rows.tokens * student.vocab * work / pace.rate
        seconds += model.steps(run) * smallest.weights * ADAM_BYTES / BANDWIDTH
        seconds += _shown_seconds(seconds, student, rows, pace)
    return (seconds + START) * pace.busy


def _last_steps(run: Run, model: CostModel, batch: int) -> float:
    """Decoding steps in which the longest answers of a batch are written, and the others have ended."""
    if isinstance(run.config, TaskConfig):
        rows, batches = model.rows(run, run.config.data), 1
    elif isinstance(run.config, DistillStage | MethodStage) and run.config.on_policy:
        rows, batches = model.trained_on(run), model.steps(run)
    else:
        return 0.0
    return batches * max(0.0, min(rows.longest(batch), run.config.sampling.max_new_tokens) - rows.response)


def _decoding_step(shape: Shape, batch: int) -> float:
    """Seconds to read the weights once; for several rows, the head's twice, since a product with few rows copies it."""
    return 4 * (shape.weights + (shape.vocab * shape.hidden if batch > 1 else 0)) / BANDWIDTH


def _shown_seconds(training: float, student: Shape, rows: Rows, pace: Pace) -> float:
    """Seconds of the answers that the student gives to people while it trains for so long (`shown_answers.py`)."""
    from tutelage.training.shown_answers import NEW_TOKENS, pause

    layers, new = student.matrix_weights - student.vocab * student.hidden, min(rows.response, NEW_TOKENS)
    one = new * _decoding_step(student, 1) + 2 * (rows.tokens * layers) / (SHARE * pace.rate)
    return one * (1 + training // pause(one))
