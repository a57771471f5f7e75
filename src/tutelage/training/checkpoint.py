"""The state of a training run on disk. A checkpoint folder appears complete or not at all; only the newest is kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError

_PREFIX = "checkpoint-"


def save_checkpoint(folder: Path, step: int, model: Any, optimizer: Any, run: str, write: bool = True) -> None:
    """Save weights, optimizer state and torch's RNG state after `step` optimizer steps into `folder`.

    All ranks call this (sharded states are gathered); only ranks with `write` write to disk. `run`: the run's
    fingerprint. Raises TutelageError when the disk is full; the previous checkpoint is then kept.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=torch.distributed.is_initialized())
    weights, moments = get_state_dict(model, optimizer, options=options)
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / f"{_PREFIX}{step:08d}", folder / f".{_PREFIX}{step:08d}"
    tensors = _tensors(weights) + _tensors(moments)
    needed = sum(t.numel() * t.element_size() for t in tensors)
    free = shutil.disk_usage(folder).free
    if free < 1.05 * needed:
        raise TutelageError(_no_space(folder, needed, free))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        # Tensors only; loading uses weights_only, which runs no code.
        torch.save({"model": weights, "optimizer": moments, "rng": _rng_state()}, partial / "state.pt")
        (partial / "step.json").write_text(json.dumps({"step": step, "run": run}))
        _sync(partial / "state.pt")
        partial.rename(target)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(folder).free
        shutil.rmtree(partial, ignore_errors=True)
        # torch's writer raises a RuntimeError without a reason for a failed write, so look at the free space.
        if (error.errno == errno.ENOSPC) if isinstance(error, OSError) else free < 0.05 * needed:
            raise TutelageError(_no_space(folder, needed, free)) from error
        raise
    for old in _complete(folder)[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: Path, run: str) -> tuple[Path, int] | None:
    """The folder of the newest complete checkpoint and its step, or None. `run`: the run's fingerprint.

    Raises TutelageError when it belongs to another run: resuming from it would mix two experiments.
    """
    found = _complete(folder)
    if not found:
        return None
    state = json.loads((found[-1] / "step.json").read_text())
    if state["run"] != run:
        raise TutelageError(
            f"{found[-1]} belongs to a run with another configuration (fingerprint {state['run']}, this run is {run}): "
            f"delete the folder or choose another output folder"
        )
    return found[-1], int(state["step"])


def load_checkpoint(path: Path, model: Any, optimizer: Any) -> None:
    """Restore, on every rank, the weights, optimizer state and RNG state that `save_checkpoint` wrote to `path`."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    shared = torch.distributed.is_initialized()  # ranks on one machine then share the file's pages
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True, mmap=shared)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
    torch.set_rng_state(state["rng"]["cpu"])
    if torch.cuda.is_available() and state["rng"]["cuda"] is not None:
        torch.cuda.set_rng_state(state["rng"]["cuda"])


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run whose result is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else []


def _rng_state() -> dict[str, Tensor | None]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [t for value in tree.values() for t in _tensors(value)]
    return [t for value in tree for t in _tensors(value)] if isinstance(tree, list | tuple) else []


def _no_space(folder: Path, needed: int, free: int) -> str:
    return (
        f"no room for a checkpoint in {folder}: it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free. "
        f"Free some space, then run the same command: it goes on from the last checkpoint"
    )


def _sync(path: Path) -> None:
    """Flush to disk before the rename: after a power cut a renamed checkpoint must not be without content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
