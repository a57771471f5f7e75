"""Trackers that accelerate knows (TensorBoard, Weights & Biases, …), for the time of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import TrainingConfig


@contextlib.contextmanager
def trackers(accelerator: Any, config: TrainingConfig, folder: Path) -> Iterator[None]:
    """Those that `training.trackers` names, started and in the end finished; they write into `folder`.

    Raises TutelageError for one that is not installed.
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
    found = filter_trackers(list(config.trackers), str(folder))  # leaves out what is not installed
    missing = sorted(set(config.trackers) - {str(tracker) for tracker in found})
    if missing:
        raise TutelageError(f"training.trackers: pip install {' '.join(missing)}, or leave them out")
    accelerator.log_with = found
    settings = {k: v for k, v in config.model_dump().items() if isinstance(v, int | float | str | bool)}
    accelerator.init_trackers("tutelage", config=settings)
