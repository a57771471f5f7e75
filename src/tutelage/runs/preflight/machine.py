"""Whether this machine has the disk and the memory that runs need at the very least.

The bounds are low on purpose, so that what they refuse cannot work: weights and optimizer state alone, without
activations and caches. `study plan` has the cost model's estimates.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tutelage.recipe.stages import PruneStage, TrainStage
from tutelage.runs.cost.cost_model import GIB, CostModel
from tutelage.runs.cost.facts import Shape, machine
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run

SAVED_BYTES = 4  # per weight of a saved model, in float32
CHECKPOINT_BYTES = 12  # per weight: the weights and Adam's two moments, in float32
STATE_BYTES = 16  # per weight in training: also the gradient


def disk_problems(runs: Sequence[Run], root: Path) -> Iterator[Problem]:
    """Whether the models that the runs save fit beside the largest checkpoint. Models of unknown shape count as 0."""
    model = CostModel(machine("H100"))
    saved, checkpoint, largest = 0.0, 0.0, 0.0
    for run in runs:
        size = _saved_weights(run, model)
        saved += SAVED_BYTES * size
        if isinstance(run.config, TrainStage):
            checkpoint = max(checkpoint, 2 * CHECKPOINT_BYTES * size)  # the old one goes when the new one is whole
            largest = max(largest, (SAVED_BYTES + CHECKPOINT_BYTES) * size)
    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    needed = f"{saved / GIB:,.1f} GiB of models and {checkpoint / GIB:,.1f} of checkpoints at a time"
    if free < largest:
        yield Problem(
            f"no room for a checkpoint in {folder}: a training run writes {largest / GIB:,.1f} GiB, and "
            f"{free / GIB:,.1f} GiB are free (all runs: {needed}). Free some space, or choose another place with --runs"
        )
    elif free < saved + checkpoint:
        yield Problem(
            f"the runs write {needed}, and {folder} has {free / GIB:,.1f} GiB free: free some space before it is full",
            stops=False,
        )


def _saved_weights(run: Run, model: CostModel) -> float:
    """Weights of the model that a run saves; 0 if it saves none, or if its shape is not known."""
    if isinstance(run.config, PruneStage):
        shape, prune = model.shape(run, "model"), run.config.prune
        if shape is None:
            return 0.0
        kept = prune.layers or len(prune.keep or ())
        return shape.weights - (1.0 - kept / shape.layers) * (shape.matrix_weights - shape.vocab * shape.hidden)
    if run.training is None:
        return 0.0
    shape = model.shape(run, "student")
    return 0.0 if shape is None else float(shape.weights)


def memory_problems(runs: Sequence[Run], ranks: int) -> Iterator[Problem]:
    """Runs whose weights alone are more than the memory of this machine's device."""
    model = CostModel(machine("H100"))
    held: dict[str, float] = {}
    for run in runs:
        if run.device not in held:
            held[run.device] = _memory(run.device)
        need, most = _least_bytes(run, model, ranks), held[run.device]
        if need > most > 0:
            what = "this machine has" if run.device == "cpu" else "a GPU here has"
            hint = "set `training.shard` and --gpus-per-run" if run.training and run.device == "cuda" else "use another"
            yield Problem(
                f"{run.stage}: its weights and optimizer state alone take {need / GIB:,.1f} GiB, and {what} "
                f"{most / GIB:,.1f}: {hint}, or smaller models"
            )


def _least_bytes(run: Run, model: CostModel, ranks: int) -> float:
    """Bytes per device of the weights and the optimizer state that a run holds at once."""
    paths = {config.path: role for role, config in run.models.items()}  # two roles of one model hold it once
    shapes: dict[str, Shape | None] = {role: model.shape(run, role) for role in paths.values()}
    frozen = 4 if run.device == "cpu" or isinstance(run.config, PruneStage) else 2
    total = 0.0
    for role, shape in shapes.items():
        if shape is None:
            continue
        trained = run.training is not None and role == "student"
        half = run.training is not None and run.training.precision == "pure_bfloat16"
        total += shape.weights * ((STATE_BYTES // 2 if half else STATE_BYTES) if trained else frozen)
    return total / (ranks if run.training is not None and run.training.shard else 1)


def _memory(device: str) -> float:
    """Bytes of the machine's memory, or of its largest GPU; 0 when not known."""
    if device == "cpu":
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return max((float(torch.cuda.get_device_properties(i).total_memory) for i in range(count)), default=0.0)
