"""Experiment trackers that accelerate supports (TensorBoard, Weights & Biases, …)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import TrainingConfig


@contextlib.contextmanager
def trackers(accelerator: Any, config: TrainingConfig, folder: Path) -> Iterator[None]:
    """Start the trackers of `training.trackers`, which write into `folder`, and finish them at the end of the block.

    Raises TutelageError for a tracker that is not installed.
    """
    if config.trackers:
        _start(accelerator, config, folder)
    try:
        yield
    finally:
        # Not `end_training`: that ends the process group too, and other stages may follow.
        for tracker in accelerator.trackers:
            tracker.finish()


def _start(accelerator: Any, config: TrainingConfig, folder: Path) -> None:
    from accelerate.tracking import filter_trackers

    accelerator.project_configuration.logging_dir = str(folder)
    installed = filter_trackers(list(config.trackers), str(folder))
    missing = sorted(set(config.trackers) - {str(tracker) for tracker in installed})
    if missing:
        raise TutelageError(f"training.trackers: pip install {' '.join(missing)}, or remove them from the list")
    accelerator.log_with = installed
    settings = {k: v for k, v in config.model_dump().items() if isinstance(v, int | float | str | bool)}
    accelerator.init_trackers("tutelage", config=settings)
