"""Checkpoints of a model that is sharded over ranks: each rank writes what it holds, in the background, as safetensors.

A folder begins under another name and is renamed when all ranks' files are on the disk, with their SHA-256 in
`files-<rank>.json`. It can be read on any number of ranks, sharded or not (`torch.distributed.checkpoint`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage.common.checksums import read_one, seal
from tutelage.common.errors import TutelageError
from tutelage.common.files import hash_file, storage_problem, write_atomically
from tutelage.models.sharding import local_part

_FILES = "files-*.json"


class ShardWriter:
    """Writes the checkpoints of a run into `folder`, one at a time, while training goes on. All ranks call each method.

    `any_rank`: whether a flag is set on any rank.
    """

    def __init__(self, folder: Path, any_rank: Callable[[bool], bool]) -> None:
        self.folder, self.any_rank, self.rank = folder, any_rank, dist.get_rank()
        # Planning and errors go through a group of their own: the ranks' main threads use the others meanwhile.
        self._group: Any = dist.new_group(backend="gloo")
        self._pool = ThreadPoolExecutor(1)
        self._begun: tuple[int, Path, Path, Future[None]] | None = None

    def begin(self, step: int, target: Path, model: Any, optimizer: Any, fill: Callable[[Path], None]) -> None:
        """Copy the state after `step` steps to the CPU, and begin to write the folder `target`.

        `fill`: writes what else belongs into the folder; the first rank calls it. Raises TutelageError when there is no
        room.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        tensors = {name: _portable(value, owner) for name, value, owner in named_tensors(model, optimizer)}
        needed = sum(value.numel() * value.element_size() for value in tensors.values())
        if self.rank == 0:
            tensors |= {f"rng.{kind}": state for kind, state in rng_states().items()}
        tensors = {n: t for n, t in tensors.items() if self.rank == 0 or hasattr(t, "device_mesh")}
        partial, problem = target.with_name(f".{target.name}"), ""
        if self.rank == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self.folder).free
                problem = no_space(self.folder, needed, free) if free < 1.05 * needed else ""
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                fill(partial)
            except OSError as error:
                problem = self._told(error)
        self._refuse(problem)
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        written: Any = async_save(tensors, storage_writer=writer, process_group=self._group)
        self._begun = step, target, partial, self._pool.submit(self._seal, written, partial)

    def finish(self) -> int | None:
        """Wait for the checkpoint that was begun, and put it in its place; returns its step, None if there is none.

        Raises TutelageError when a rank could not write; the checkpoint before it is kept.
        """
        if self._begun is None:
            return None
        (step, target, partial, sealed), self._begun, problem = self._begun, None, ""
        try:
            sealed.result()
        except Exception as error:  # a rank's error comes to all of them, wrapped
            problem = self._told(next((e for e, _ in getattr(error, "failures", {}).values()), error))
        try:
            self._refuse(problem)
        except TutelageError:
            if self.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if self.rank == 0:
            shutil.rmtree(target, ignore_errors=True)  # a damaged one
            partial.rename(target)
            for old in self.folder.glob("checkpoint-*"):
                if old != target:
                    shutil.rmtree(old, ignore_errors=True)
        dist.barrier(self._group)
        return step

    def _seal(self, written: Any, partial: Path) -> None:
        """Write the checksums of this rank's files when they are written, and flush them to the disk."""
        getattr(written, "upload_completion", written).result()
        own = partial.glob(f"shard-{self.rank + 1:05d}-*")
        sums = {file.name: hash_file(file, sync=True) for file in own}
        write_atomically(
            partial / _FILES.replace("*", str(self.rank)), seal({"files": sums, "ranks": dist.get_world_size()})
        )

    def _refuse(self, problem: str) -> None:
        """Raise TutelageError on all ranks if there is a problem on one."""
        if self.any_rank(bool(problem)):
            raise TutelageError(problem or f"another rank could not write a checkpoint in {self.folder}")

    def _told(self, error: BaseException) -> str:
        return f"no checkpoint can be written in {self.folder}: {storage_problem(error) or repr(error)}"


def load_shards(path: Path, model: Any, optimizer: Any) -> dict[str, Tensor]:
    """Restore the weights and the optimizer's state from the folder of a checkpoint; returns the RNG states."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _make_state(optimizer)
    held = list(named_tensors(model, optimizer))
    wanted = {name: _portable(value, owner) for name, value, owner in held}
    reader = HuggingFaceStorageReader(str(path))
    known: Any = reader.read_metadata().state_dict_metadata
    rng = {name: torch.empty(known[name].size, dtype=torch.uint8) for name in known if name.startswith("rng.")}
    load(wanted | rng, storage_reader=reader, no_dist=True)
    with torch.no_grad():
        for name, value, owner in held:
            if _is_apart(value, owner):  # all others were read in place
                local_part(value).copy_(local_part(wanted[name]))
    return {name.removeprefix("rng."): state for name, state in rng.items()}


@torch.no_grad()
def load_whole(weights: Mapping[str, Tensor], moments: Mapping[str, Any], model: Any, optimizer: Any) -> None:
    """Restore a sharded model's weights and its optimizer's state from the whole ones, by the weights' names, that a
    run without shares had: each rank takes its own part of each."""
    from torch.distributed.tensor import distribute_tensor

    _make_state(optimizer)
    for name, value, owner in named_tensors(model, optimizer):
        key, _, of = name.partition(".")
        found = weights[of] if key == "model" else moments[of][key]
        found = found.dequantize() if hasattr(found, "codes") else found
        if hasattr(owner, "device_mesh") and value.ndim > 0:
            where: Any = owner
            found = distribute_tensor(found, where.device_mesh, where.placements, src_data_rank=None)
        local_part(value).copy_(local_part(found))


def damaged_shard(path: Path, rank: int = 0, ranks: int = 1) -> str | None:
    """The first file of a checkpoint that is not as it was written, of every `ranks`-th from number `rank` on."""
    lists = sorted(path.glob(_FILES))
    found = [read_one(file) for file in lists]
    if not found or None in found or {one["ranks"] for one in found if one} != {len(found)}:
        return next((f.name for f, one in zip(lists, found, strict=True) if one is None), _FILES)
    sums = [(name, wanted) for one in found if one for name, wanted in one["files"].items()]
    for name, wanted in sums[rank::ranks]:
        if not (path / name).is_file() or hash_file(path / name) != wanted:
            return name
    return None


def named_tensors(model: Any, optimizer: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, tensor, the weight that it belongs to) of all that training changes, as this rank holds it: weights,
    buffers, the optimizer's state.

    The names are those of the model without wrappers, so that ranks which share it differently agree on them.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        name = _plain(name)
        yield f"model.{name}", parameter.detach(), parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}.{name}", value, parameter
    if all(parameter.requires_grad for parameter in model.parameters()):
        kept = model.state_dict().keys()
        yield from ((f"model.{_plain(name)}", buffer, buffer) for name, buffer in model.named_buffers() if name in kept)


def rng_states() -> dict[str, Tensor]:
    """The states of torch's generators."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def no_space(folder: Path, needed: int, free: int) -> str:
    """The message for a disk without room for a checkpoint."""
    return (
        f"no room for a checkpoint in {folder}: it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free. "
        f"Free some space, then run the same command: it goes on from the last checkpoint"
    )


def _plain(name: str) -> str:
    return name.removeprefix("module.").replace("_orig_mod.", "")


def _is_apart(value: Tensor, owner: Tensor) -> bool:
    """Whether a state is held otherwise than its weight: in eight bits (torchao), or as a plain share in CPU memory."""
    shares = hasattr(owner, "device_mesh") and not hasattr(value, "device_mesh") and value.ndim > 0
    return shares or hasattr(local_part(value), "codes")


def _portable(value: Tensor, owner: Tensor) -> Tensor:
    """The tensor as files hold it: sharded like its weight, numbers instead of codes, with at least one dimension."""
    if not _is_apart(value, owner):
        return value.reshape(1) if value.ndim == 0 else value
    own: Any = local_part(value)
    own = own.dequantize() if hasattr(own, "codes") else own
    if not hasattr(owner, "device_mesh"):
        return own
    from torch.distributed.tensor import DTensor

    where: Any = owner
    return DTensor.from_local(
        own, where.device_mesh, where.placements, run_check=False, shape=owner.shape, stride=owner.stride()
    ).to(own.device)


@torch.no_grad()
def _make_state(optimizer: Any) -> None:
    """Let an optimizer make its state, with a step that changes nothing, if it has none yet."""
    if optimizer.state:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
