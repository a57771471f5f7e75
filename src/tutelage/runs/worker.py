"""One run done by this process: its lock, its log, its errors; where it needs several processes, they are started."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.interrupt import Interrupted, asked_to_stop, become_worker
from tutelage.common.run_folder import ERROR, ERROR_LOG, LOG
from tutelage.runs.ranks import Share, die_with_parent, do_apart, takes_ranks
from tutelage.runs.run import Run
from tutelage.runs.store import Store


def make_runs_folder(root: Path) -> None:
    """Raises TutelageError where that is not possible."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TutelageError(f"cannot make the folder {root}: {error.strerror}; choose another with --runs") from error


class Busy(str):
    """What `attempt` says of a run that another process is at work on."""


def attempt(
    run: Run, debug: bool = False, log: bool = False, share: Share | None = None, store: Store | None = None
) -> str | None:
    """Do one run. None when it stands, else one line of what went wrong, which is also in its error.txt; error.log
    has the traceback. With `log` what the run prints goes into its log.txt; what ranks print goes there in any case.
    With `store` its parents come from there, and it goes there when it is done."""
    from tutelage.runs.do_run import do_run
    from tutelage.runs.lock import lock

    held = lock(run)
    if held is None:
        return Busy(f"{run.stage}: another process is at work on {run.folder}; wait for it, or stop it")
    error: str | None = None
    took_part = takes_ranks(run) and not run.done  # in `stop_requests`
    try:
        with _heartbeat(held), _printing_to(run.folder / LOG) if log else nullcontext():
            if store is not None and not run.done:
                _fetch(run, store)
            if share is not None and share.apart and not run.done:
                do_apart(run, share, run.folder / LOG)
            else:
                do_run(run)
            if store is not None and not store.is_done(run):
                store.push(run)
        if took_part and asked_to_stop():
            raise Interrupted(f"stopped after {run.stage}; the same command goes on from there")
    except Interrupted:
        raise  # somebody wants the whole recipe to stop, not to go on with the next stage
    except TutelageError as problem:
        error = f"{run.stage}: {problem}"
    except Exception as problem:
        (run.folder / ERROR_LOG).write_text(traceback.format_exc())
        if debug:
            raise
        line = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        error = f"{run.stage}: {type(problem).__name__}: {line} (the whole traceback: {run.folder / ERROR_LOG})"
    finally:
        if error is None:
            (run.folder / ERROR).unlink(missing_ok=True)
        else:
            write_atomically(run.folder / ERROR, error + "\n")
            if store is not None:
                with suppress(TutelageError):  # it is the storage that fails, maybe
                    store.push_error(run)
        held.unlink(missing_ok=True)
        _free_memory()
    return error


def _fetch(run: Run, store: Store) -> None:
    """The run itself, where another machine has done it by now, else what it builds on."""
    if store.is_done(run):
        store.settle([run])
        return
    for parent in run.parents:
        if store.is_done(parent):
            store.pull(parent)


@contextmanager
def _heartbeat(lock: Path, every: float = 20.0) -> Iterator[None]:
    """Touch the lock now and then: on shared storage that is how other machines see that its holder lives."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            try:
                os.utime(lock)
            except OSError:
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Standard output and error of this process, those of libraries below Python too, are added to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with path.open("ab") as handle:
            os.dup2(handle.fileno(), 1)
            os.dup2(handle.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _free_memory() -> None:
    """Give this run's GPU memory back to the other workers."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def begin_worker(parent: int) -> None:
    die_with_parent(parent)
    become_worker()


def work(*args: Any) -> str | None:
    """`attempt` in a worker."""
    try:
        return attempt(*args)
    except Interrupted:
        # The state is saved. An answer would not be heard: other workers have been ended, and a pool that has lost one
        # waits for the others to end, while they wait for the next task.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
