"""A command that torchrun or srun started as several ranks, on one host or several: `torchrun … -m tutelage run …`.

The first rank is the command: it plans, schedules and prints. It does each training run together with the other ranks,
which wait for the next one; all else it does alone, in a process that knows nothing of the ranks. When a rank fails or
dies, the launcher ends them all; the same command, or the launcher's own restart, goes on from the last checkpoint.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Interrupted
from tutelage.runs.run import Run

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OTHERS = ("GROUP_RANK", "ROLE_RANK", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME")  # torchrun's
_LOOK = 0.2  # seconds between two looks of a waiting rank
_GRACE = 10.0  # seconds that ranks which end wait for each other
_joined: Joined | None = None


class Joined:
    """The ranks of this command. `rank`: this one's; `world`: how many there are."""

    def __init__(self, rank: int, world: int) -> None:
        from torch.distributed.rendezvous import rendezvous

        self.rank, self.world, self._told = rank, world, 0
        store, _, _ = next(rendezvous("env://", rank, world))
        self.store = _below(f"tutelage-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

    def lead(self, run: Run, do: Callable[[Run], Any]) -> None:
        """Do a training run with all ranks; called by the first."""
        self._tell(pickle.dumps(run))
        self._prepare(run)
        do(run)

    def follow(self) -> None:
        """Do the other ranks' part of every run until the first rank ends. A failure ends this process, so that the
        launcher ends the others, which may wait for it."""
        from tutelage.runs.do_run import do_run, free_memory

        while content := self._next():
            run: Run = pickle.loads(content)  # written by `lead`
            try:
                self._prepare(run)
                with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
                    do_run(run, write=False)
                free_memory()
            except Interrupted:  # all have saved
                os._exit(0)
            except TutelageError as error:
                print(f"{run.stage}: rank {self.rank}: {error}", file=sys.stderr, flush=True)
                time.sleep(_GRACE)  # what all ranks find, the first one writes down
                os._exit(1)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        _leave_group()
        self.store.add("ended", 1)

    def end(self) -> None:
        """Let the other ranks end; called by the first, whose process may keep what they talk through."""
        self._tell(b"")
        _leave_group()
        until = time.monotonic() + _GRACE
        while self.store.add("ended", 0) < self.world - 1 and time.monotonic() < until:
            time.sleep(0.05)

    def _prepare(self, run: Run) -> None:
        """Choose the device, and join the process group that the run's ranks talk in.

        Joined here, since torch's own way has the ranks find each other by keys that an earlier group, or a rank that
        died before the launcher's restart, may have left in the launcher's store.
        """
        import torch.distributed as dist

        _use_device(run)
        if not dist.is_initialized():
            store = _below(f"group-{self._told}", self.store)
            backend = "nccl" if run.device == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world)

    def _tell(self, content: bytes) -> None:
        self.store.set(f"run-{self._told}", content)  # pyright: ignore[reportArgumentType]
        self._told += 1

    def _next(self) -> bytes:
        """What the first rank tells next. Raises TutelageError when it has gone."""
        key = f"run-{self._told}"
        try:
            while not self.store.check([key]):  # not `wait`, which warns whenever its time is over
                time.sleep(_LOOK)
            self._told += 1
            return self.store.get(key)
        except RuntimeError as error:
            raise TutelageError(f"rank {self.rank}: the first rank has gone") from error


@contextlib.contextmanager
def ranks_of_this_command(jobs: int, gpus_per_run: float | None, executor: str = "local") -> Iterator[bool]:
    """For a block that does runs: joins the ranks that this process was started with, and yields whether it is to do
    the block's work. On all ranks but the first the work is done before, and it is not. Alone, it is.

    Raises TutelageError for options that are the launcher's.
    """
    global _joined
    found = rank_variables(os.environ)
    if found is None:
        yield True
        return
    os.environ |= found
    _joined = ranks = Joined(int(found["RANK"]), int(found["WORLD_SIZE"]))
    if ranks.rank:
        ranks.follow()
        yield False
        return
    if jobs > 1 or gpus_per_run is not None or executor != "local":
        raise TutelageError(
            f"{ranks.world} ranks were started, which do one run at a time: leave --jobs, --gpus-per-run and "
            "--executor out, or start one process"
        )
    try:
        yield True
    except BaseException:
        # A normal end would wait for ranks that may be dead, or wait for this one.
        atexit.register(os._exit, 1)
        atexit.register(sys.stdout.flush)
        raise
    ranks.end()


def joined() -> Joined | None:
    """The ranks that this process has joined."""
    return _joined


def rank_variables(given: Mapping[str, str]) -> dict[str, str] | None:
    """The variables that torchrun sets, as it or srun set them; None for a process of its own.

    srun's: SLURM_STEP_NUM_TASKS, SLURM_PROCID, SLURM_LOCALID, SLURM_STEP_NODELIST (whose first host is MASTER_ADDR
    unless that is set), SLURM_STEP_TASKS_PER_NODE, SLURM_JOB_ID (the port). The script of a batch job has no step.

    Raises TutelageError for a number that is none, or where something is missing.
    """
    found = {name: given[name] for name in _VARIABLES if name in given}
    if "RANK" not in found and int(given.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        local = re.match(r"\d+", given.get("SLURM_STEP_TASKS_PER_NODE", ""))
        host = re.match(r"([^\[,]+)(?:\[(\d+))?", given.get("SLURM_STEP_NODELIST", ""))
        own = {"RANK": given.get("SLURM_PROCID"), "WORLD_SIZE": given["SLURM_STEP_NUM_TASKS"]}
        own |= {"LOCAL_RANK": given.get("SLURM_LOCALID"), "LOCAL_WORLD_SIZE": local and local[0]}
        own |= {"MASTER_ADDR": host and "".join(filter(None, host.groups()))}
        own |= {"MASTER_PORT": str(20_000 + int(given.get("SLURM_JOB_ID") or 0) % 20_000)}
        found = {name: value for name, value in own.items() if value} | found
    if int(found.get("WORLD_SIZE", "1")) < 2:
        return None
    missing = [name for name in _VARIABLES if name not in found and name != "LOCAL_WORLD_SIZE"]
    if missing:
        raise TutelageError(f"this is one of {found['WORLD_SIZE']} ranks, and {missing[0]} is not set: start it with "
                            "torchrun or srun, or export it")  # fmt: skip
    return found


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what makes a process one of several ranks."""
    gone = (*_VARIABLES, *_OTHERS)
    return {name: v for name, v in environment.items() if name not in gone and not name.startswith("TORCHELASTIC_")}


def _below(prefix: str, store: Any) -> Any:
    """A store whose keys are those of `store` that begin with this."""
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]

    return PrefixStore(prefix, store)


def _use_device(run: Run) -> None:
    if run.device == "cuda":
        import torch

        # the device that "cuda" means from here on; srun may show each rank its own GPU alone
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % max(1, torch.cuda.device_count()))


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
