"""The state of a training run on disk. A checkpoint folder appears complete or not at all; only the newest is kept.

`state.pt` is a zip file, whose parts have checksums; of a sharded model there are files per rank in its place
(`sharded_checkpoint.py`). `step.json` has its own, and `metrics.jsonl` and `samples.jsonl` hold the run's lines up to
the checkpoint.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.common.checksums import read_one, read_sealed, seal
from tutelage.common.errors import TutelageError
from tutelage.common.files import storage_problem, write_bytes_atomically
from tutelage.common.run_folder import METRICS, SAMPLES
from tutelage.models.sharding import gathered
from tutelage.training.sharded_checkpoint import (
    ShardWriter,
    damaged_shard,
    load_shards,
    load_whole,
    no_space,
    rng_states,
)

_LOGS = (METRICS, SAMPLES)
_PREFIX = "checkpoint-"
STATE = "state.pt"


def save_checkpoint(folder: Path, step: int, model: Any, optimizer: Any, run: str, write: bool = True) -> None:
    """Save weights, optimizer state and torch's RNG state after `step` optimizer steps into `folder`.

    Of a model with frozen weights (LoRA) only the others are saved. All ranks call this (sharded states are gathered);
    only ranks with `write` write to disk. `run`: the run's fingerprint. Raises TutelageError when the disk is full; the
    previous checkpoint is then kept.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=torch.distributed.is_initialized())
    if learnt := _learnt(model):
        weights: Any = {name: gathered(p).detach().cpu() for name, p in learnt.items()}
        moments = get_optimizer_state_dict(model, optimizer, options=options)
    else:
        weights, moments = get_state_dict(model, optimizer, options=options)
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / _name(step), folder / f".{_name(step)}"
    tensors = _tensors(weights) + _tensors(moments)
    needed = sum(getattr(t, "codes", t).nbytes for t in tensors)  # torchao's states have one byte per number
    free = shutil.disk_usage(folder).free
    if free < 1.05 * needed:
        raise TutelageError(no_space(folder, needed, free))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        # Tensors only; loading uses weights_only, which runs no code.
        torch.save({"model": weights, "optimizer": moments, "rng": rng_states()}, partial / STATE)
        write_beside(partial, folder, step, run)
        _sync(partial)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
        partial.rename(target)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        problem = storage_problem(error)
        if problem is None:
            raise
        raise TutelageError(f"no checkpoint can be written in {folder}: {problem}") from error
    for old in _complete(folder):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def save_shards(writer: ShardWriter, folder: Path, step: int, model: Any, optimizer: Any, run: str) -> None:
    """As `save_checkpoint`, of a sharded model, in the background; `ShardWriter.finish` then puts it in its place."""
    writer.begin(step, folder / _name(step), model, optimizer, lambda partial: write_beside(partial, folder, step, run))


def write_beside(partial: Path, folder: Path, step: int, run: str) -> None:
    """Write what a checkpoint has beside the state into its folder `partial`."""
    (partial / "step.json").write_text(seal({"step": step, "run": run}))
    for name in _LOGS:
        if (folder.parent / name).is_file():
            shutil.copyfile(folder.parent / name, partial / name)


def latest_checkpoint(
    folder: Path, run: str, any_rank: Callable[[bool], bool] = bool, rank: int = 0, ranks: int = 1
) -> tuple[Path, int] | None:
    """The folder of the newest complete checkpoint and its step, or None. `run`: the run's fingerprint. Ranks that call
    this together share the reading of a sharded one; `any_rank`: whether a flag is set on any of them.

    A damaged one is named and passed over. Raises TutelageError when it belongs to another run: resuming from it would
    mix two experiments.
    """
    for path in reversed(_complete(folder)):
        state = read_one(path / "step.json")
        whole = state is not None and _name(state["step"]) == path.name
        problem = _damage(path, state["step"], rank, ranks) if state is not None and whole else "step.json"
        if any_rank(problem is not None):
            if problem is not None:
                print(f"{path} is not used, since its {problem} is damaged", flush=True)
            continue
        assert state is not None
        if state["run"] != run:
            raise TutelageError(
                f"{path} belongs to a run with another configuration (fingerprint {state['run']}, this run is {run}): "
                f"delete the folder or choose another output folder"
            )
        return path, int(state["step"])
    return None


def load_checkpoint(path: Path, model: Any, optimizer: Any) -> None:
    """Restore, on every rank, the weights, optimizer state and RNG state that `save_checkpoint` wrote to `path`.

    The first rank also puts the run's metrics and samples back as they were.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict, set_state_dict

    for name in _LOGS:
        if (path / name).is_file() and not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
            write_bytes_atomically(path.parents[1] / name, (path / name).read_bytes())
    if not (path / STATE).is_file():
        _set_rng(load_shards(path, model, optimizer))
        return
    shared = torch.distributed.is_initialized()  # ranks on one machine then share the file's pages
    state = torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=shared)
    options = StateDictOptions(full_state_dict=True)
    weights, moments = state["model"], state["optimizer"]
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        load_whole(weights, moments["state"], model, optimizer)
    elif learnt := _learnt(model):
        set_optimizer_state_dict(model, optimizer, moments, options=options)
        for name, parameter in learnt.items():
            parameter.data.copy_(weights[name])
    else:
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=options)
    _set_rng(state["rng"])


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run whose result is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _learnt(model: Any) -> dict[str, Tensor]:
    """The weights that training changes, by name; empty if it changes all of them."""
    named = {name.removeprefix("module."): p for name, p in model.named_parameters()}  # as without DDP's wrapper
    learnt = {name: p for name, p in named.items() if p.requires_grad}
    return {} if len(learnt) == len(named) else learnt


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _damage(path: Path, step: int, rank: int, ranks: int) -> str | None:
    """The first file of a checkpoint that is not as it was written; None if they are whole."""
    if [*path.glob("files-*.json")]:
        broken = damaged_shard(path, rank, ranks)
    else:
        broken = None if _is_whole(path / STATE) else STATE
    if broken:
        return broken
    lines = read_sealed(path / METRICS)
    if (path / METRICS).is_file() and [line and line.get("step") for line in lines] != [*range(1, step + 1)]:
        return METRICS
    if None in read_sealed(path / SAMPLES):
        return SAMPLES
    return None


def _is_whole(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as state:
            return state.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else []


def _set_rng(states: Mapping[str, Tensor | None]) -> None:
    cpu, cuda = states["cpu"], states.get("cuda")
    assert cpu is not None
    torch.set_rng_state(cpu)
    if torch.cuda.is_available() and cuda is not None:
        torch.cuda.set_rng_state(cuda)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [t for value in tree.values() for t in _tensors(value)]
    return [t for value in tree for t in _tensors(value)] if isinstance(tree, list | tuple) else []


def _sync(folder: Path) -> None:
    """Flush to disk before the rename: after a power cut a renamed checkpoint must not be without content."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
