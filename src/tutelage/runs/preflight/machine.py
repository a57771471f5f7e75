"""Whether this machine has the memory and the disk that runs need, by the cost model's estimates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.common.files import no_place, unwritable
from tutelage.recipe.stages import TrainStage
from tutelage.runs.cost.cost_model import CostModel
from tutelage.runs.cost.disk import Disk, disk_of, disk_of_all
from tutelage.runs.cost.facts import Machine, Shape, facts, machine
from tutelage.runs.cost.memory import GIB
from tutelage.runs.preflight.fit import misfits
from tutelage.runs.preflight.hub import cached
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run


@dataclass(frozen=True)
class Here:
    """This machine: its device, and what it is called."""

    device: str
    machine: Machine | None  # None: memory not known
    said: str


def look_at_machine(device: str | None = None) -> Here:
    """This machine's GPUs, or its cores and memory; `device`: "cpu" for these whatever GPUs it has."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        here = this_machine("cpu")
        memory = f", {here.memory:.0f} GiB" if here else ""
        return Here("cpu", here, f"{'' if device == 'cpu' else 'no GPU; '}{_cores()} CPU cores{memory}")
    here, name = this_machine("cuda"), torch.cuda.get_device_name(0)
    assert here is not None
    like = next((one for one in facts()["machines"] if one in name.replace(" ", "")), None)
    if like is not None:
        here = replace(machine(like), gpus=here.gpus, memory=here.memory)
    rates = "" if like else "; times are an H100's"
    many = f"{here.gpus} × " if here.gpus > 1 else ""
    return Here("cuda", here, f"{many}{name}, {here.memory:.0f} GiB{rates}")


def disk_problems(runs: Sequence[Run], root: Path, jobs: int = 1) -> Iterator[Problem]:
    """Whether the folder `root` can be written, and the disk has room for what the runs write, `jobs` at a time, and
    the hub's cache for what they load."""
    if reason := unwritable(root):
        yield Problem(no_place(root, reason, "--runs"))
        return
    model = CostModel(machine("H100"))
    needed, free, folder = disk_of_all(runs, model, jobs), free_disk(root), _existing(root)
    training = (disk_of(run, model) for run in runs if isinstance(run.config, TrainStage))
    largest = max((one.models + one.checkpoints / 2 + one.signals for one in training), default=0.0)
    if free < largest:
        yield Problem(
            f"no room for a checkpoint in {folder}: a training run writes {largest / GIB:,.1f} GiB, and "
            f"{free / GIB:,.1f} are free (all runs write {disk_text(needed)}): free some space, or choose another "
            "place with --runs"
        )
    elif free < needed.total:
        yield Problem(
            f"{folder} has {free / GIB:,.1f} GiB free, and the runs write {disk_text(needed)}; free some space before "
            "it is full",
            stops=False,
        )
    loaded, cache = downloads(runs), _existing(_hub_cache())
    if loaded > shutil.disk_usage(cache).free:
        yield Problem(
            f"models of {loaded / GIB:,.1f} GiB are to be downloaded, and {cache} has "
            f"{shutil.disk_usage(cache).free / GIB:,.1f} free: free some space, or set HF_HOME to another place"
        )


def disk_text(disk: Disk) -> str:
    """What runs write, in words."""
    models, checkpoints, texts = (f"{size / GIB:,.1f}" for size in (disk.models, disk.checkpoints, disk.texts))
    signals = f", teachers' signals {disk.signals / GIB:,.1f}" if disk.signals else ""
    return (
        f"{disk.total / GIB:,.1f} GiB: models {models}, checkpoints {checkpoints} at a time, replies and rows {texts}"
        f"{signals}"
    )


def free_disk(root: Path) -> float:
    """Free bytes of the file system that holds, or will hold, the folder `root`."""
    return float(shutil.disk_usage(_existing(root)).free)


def downloads(runs: Sequence[Run]) -> float:
    """Bytes of the hub models, of known shape, that the runs load and the hub's cache does not have: 2 per weight."""
    known = facts()["models"]
    paths = {config.path for run in runs for config in run.models.values()} & set(known)
    wanted = [path for path in paths if not path.startswith("package:") and not cached(path, "model")]
    return sum(2.0 * Shape(**known[path]).weights for path in wanted)


def memory_problems(runs: Sequence[Run], ranks: int) -> Iterator[Problem]:
    """Runs that this machine's device cannot hold, or only just: one problem per kind and reason."""
    for device in dict.fromkeys(run.device for run in runs):
        here = this_machine(device, ranks)
        if here is not None:
            for found in misfits([run for run in runs if run.device == device], CostModel(here, ranks)):
                yield Problem(found.text, found.stops)


def this_machine(device: str, ranks: int = 1) -> Machine | None:
    """This machine's GPUs, or its memory shared by `ranks` processes; None when it is not known. Rates: an H100's."""
    count, memory = _devices(device)
    share = memory / GIB / (ranks if device == "cpu" else 1)
    return replace(machine("H100"), name="this machine", gpus=count, memory=share, device=device) if memory else None


def _devices(device: str) -> tuple[int, float]:
    """Number of GPUs and bytes of the largest, or 1 and the machine's memory; 0 when not known."""
    if device == "cpu":
        return 1, float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sizes = (float(torch.cuda.get_device_properties(i).total_memory) for i in range(count))
    return count, max(sizes, default=0.0)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
