"""One run done by this process: its lock, its log, its errors. A run that needs several processes gets them from here.

The lock file lets one process at a time work on a run; a lock whose holder has died counts for nothing.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import refuse_unwritable, storage_problem, write_atomically
from tutelage.common.interrupt import Interrupted, asked_to_stop, become_worker
from tutelage.common.locks import holder, is_held, own_mark
from tutelage.common.progress import print_anything, tell_with
from tutelage.common.run_folder import CHECKPOINTS, ERROR, ERROR_LOG, LOCK, LOG
from tutelage.runs.hosts.joined import joined
from tutelage.runs.ranks import Share, die_with_parent, do_in_processes
from tutelage.runs.run import Run, adapter_line, takes_ranks
from tutelage.runs.store import Store


def make_runs_folder(root: Path) -> None:
    """Make the folder of all runs. Raises TutelageError when that is not possible."""
    if not root.is_dir():
        refuse_unwritable(root, "--runs")
        root.mkdir(parents=True, exist_ok=True)


class Busy(str):
    """Returned by `attempt` when another process holds the run."""


def attempt(
    run: Run, debug: bool = False, log: bool = False, share: Share | None = None, store: Store | None = None
) -> str | None:
    """Do one run. Returns None on success, else one line that says what failed; Interrupted is raised on. Among ranks
    that a launcher started (`joined.py`) a training run is done with them, and raises TutelageError when it fails.

    The line goes into the run's error.txt too, and the traceback of an unexpected error into error.log (with `debug` it
    is raised). `log`: what the run prints goes into its log.txt; the output of ranks always does. `share`: ranks and
    GPUs of the run. `store`: the run's parents are fetched from there, and its folder is uploaded when it is done.
    """
    from tutelage.runs.do_run import do_run, free_memory

    try:
        lock_file = lock(run)
    except (OSError, TutelageError) as problem:
        return f"{run.stage}: {storage_problem(problem) or problem}"
    if lock_file is None:
        return Busy(f"{run.stage}: {holder(run.folder / LOCK)} is working on {run.folder}; wait for it, or stop it")
    error: str | None = None
    trains = takes_ranks(run) and not run.done  # then it waits for stop requests, to save first
    ranks = joined()
    try:
        with _heartbeat(lock_file), _printing_to(run.folder / LOG) if log else nullcontext():
            if store is not None and not run.done:
                _fetch(run, store)
            if ranks is not None and trains:
                ranks.lead(run, do_run)
            elif not run.done and (ranks is not None or (share is not None and share.needs_processes)):
                do_in_processes(run, Share() if share is None or ranks is not None else share, run.folder / LOG)
            else:
                do_run(run)
            if store is not None and not store.is_done(run):
                store.push(run)
        if trains and asked_to_stop():
            raise Interrupted(f"stopped after {run.stage}; the same command goes on from there")
    except Interrupted:
        raise  # the user wants the whole recipe to stop, not to go on with the next run
    except TutelageError as problem:
        error = f"{run.stage}: {problem}"
    except Exception as problem:
        with suppress(OSError):  # the disk may be what failed
            (run.folder / ERROR_LOG).write_text(traceback.format_exc())
        if debug:
            raise
        line = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        line = f"{type(problem).__name__}: {line} (traceback: {run.folder / ERROR_LOG})"
        error = f"{run.stage}: {storage_problem(problem) or line}"
    finally:
        _note(run, error, store)
        with suppress(OSError):
            lock_file.unlink(missing_ok=True)
        free_memory()
    if ranks is not None and trains and error is not None:
        raise TutelageError(error)  # the other ranks are lost with this run
    return error


def tidy(run: Run) -> None:
    """Remove what a process that was killed just after it had written the result left in a finished run's folder."""
    from tutelage.training.checkpoint import remove_checkpoints

    if (run.folder / CHECKPOINTS).is_dir():
        remove_checkpoints(run.folder / CHECKPOINTS)
    path = run.folder / LOCK
    if path.is_file() and not is_held(path):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def begin_worker(parent: int, gpus: Any = None, notes: Path | None = None) -> None:
    """Initialise a worker process: it ends with `parent`, and stops only after saving.

    `gpus`: a queue of GPU ids. The worker uses the first of them alone, or all GPUs that it sees if there is none. CUDA
    has not started yet, so the variable is heeded. `notes`: the file of the notes that were printed (`told_once`).
    """
    tell_with(notes)
    if gpus is not None and not gpus.empty():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    print_anything()
    die_with_parent(parent)
    become_worker()


def work(*args: Any) -> str | None:
    """`attempt` in a worker process. A worker that is asked to stop exits when it has saved, or has failed to."""
    try:
        return attempt(*args)
    finally:
        # Back in the pool it would wait for its next task, and the pool for its end: another worker, ended while it
        # waited, has taken the lock of the tasks along.
        if asked_to_stop():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


# --- the lock ---------------------------------------------------------------------------------------------------------


def lock(run: Run) -> Path | None:
    """Take the run's lock file and return its path; None when another living process holds it.

    The check of an old lock and its replacement happen under the system's lock on the folder, so that only one of two
    processes that find a dead holder takes it over.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / LOCK
    descriptor = os.open(run.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and is_held(path):
            return None
        return write_atomically(path, own_mark())
    finally:
        os.close(descriptor)


@contextmanager
def _heartbeat(lock_file: Path, every: float = 20.0) -> Iterator[None]:
    """Touch the lock file every `every` seconds: on shared storage other machines see by that that its holder lives."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            try:
                os.utime(lock_file)
            except OSError:
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- around a run -----------------------------------------------------------------------------------------------------


def _fetch(run: Run, store: Store) -> None:
    """Fetch the run itself if another machine has done it meanwhile, else the runs that it builds on."""
    if store.is_done(run):
        store.settle([run])
        return
    # An adapter's frozen base may be the model of a run further back.
    for parent in (*run.parents, *(adapter_line(run)[-1].parents if run.lora else ())):
        if store.is_done(parent):
            store.pull(parent)


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Append this process's standard output and error to a file, including what libraries below Python print."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        with path.open("ab") as handle:
            os.dup2(handle.fileno(), 1)
            os.dup2(handle.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _note(run: Run, error: str | None, store: Store | None) -> None:
    """Write a run's error file, or remove that of an earlier try; the disk, or the store, may be what failed."""
    with suppress(OSError, TutelageError):
        if error is None:
            (run.folder / ERROR).unlink(missing_ok=True)
            return
        write_atomically(run.folder / ERROR, error + "\n")
        if store is not None:
            store.push_error(run)
