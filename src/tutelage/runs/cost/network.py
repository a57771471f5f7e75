"""Seconds that the network between hosts takes for a training run."""

from __future__ import annotations

from tutelage.runs.cost.facts import Machine, Shape
from tutelage.runs.cost.memory import shares
from tutelage.runs.run import Run


def exchange_seconds(
    run: Run, student: Shape, teacher: Shape | None, tokens: float, machine: Machine, ranks: int
) -> float:
    """Of training on so many tokens by `ranks` ranks; 0 on one host.

    Sharded over hosts, each rank gathers the student's layers before the forward and the backward pass of a
    micro-batch (2 bytes per weight), the teacher's once, and sums their gradients (4). Under `shard: host` it sums
    those of its share (twice 4), and without `shard` all of them once per step.
    """
    training = run.training
    if ranks <= machine.gpus_per_host or training is None:
        return 0.0
    steps = max(1.0, tokens / (training.batch_size * training.max_length))
    passes = max(steps, tokens / ranks / training.tokens_per_micro_batch)
    trained = student.weights if run.lora is None else student.adapter_weights(run.lora)
    if training.shard is True:
        moved = passes * (4 * student.weights + 4 * trained + 2 * (teacher.weights if teacher else 0))
    elif training.shard:
        moved = passes * 8 * trained / shares(training, machine, ranks)
    else:
        moved = steps * 8 * trained
    return moved / (1e12 * machine.network)
