"""Doing runs in the order of their dependencies, several side by side where asked, nothing twice."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.run_folder import ERROR
from tutelage.runs.ranks import Share, takes_ranks
from tutelage.runs.run import Run, with_parents
from tutelage.runs.store import Store
from tutelage.runs.worker import Busy, attempt, begin_worker, work

LOOK_AGAIN = 1.0  # seconds until a run that another driver works on is looked at again
CRASHES = 2  # a run whose worker died so often is left alone


class Scheduler:
    """Does runs in the order of their dependencies, in this process or in several.

    `patient`: a run that another driver works on is waited for, a worker that was killed costs only its own run, and a
    run that failed in an earlier call (it has an error.txt) is left alone unless `retry`. Recipes stop at once instead.
    `memory` and `budget`: no more runs at a time than their GiB fit. `hours`: how long a run may take; those that begin
    the longest chain of work go first (without it, the chain of most runs). `pool`: whatever has `submit` and
    `shutdown`. `ranks`: processes of a training run. `gpus`: ids, of which each run on CUDA has as many to itself as it
    has ranks.
    """

    def __init__(
        self,
        jobs: int,
        debug: bool,
        *,
        patient: bool = False,
        retry: bool = False,
        memory: Callable[[Run], float] | None = None,
        budget: float | None = None,
        hours: Callable[[Run], float] | None = None,
        pool: Any = None,
        ranks: int = 1,
        gpus: Sequence[str] | None = None,
        store: Store | None = None,
    ) -> None:
        self.jobs, self.debug, self.patient, self.retry = jobs, debug, patient, retry
        self.memory, self.budget, self.hours = memory, budget, hours
        self.pool: Any = pool
        self.store = store
        self.ranks, self.free = ranks, None if gpus is None else list(gpus)
        self.shares: dict[str, Share] = {}  # what each run at work has
        self.crashes: Counter[str] = Counter()

    def __enter__(self) -> Scheduler:
        if self.jobs > 1 and self.pool is None:
            self.pool = _processes(self.jobs)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            for process in list((getattr(self.pool, "_processes", None) or {}).values()):
                process.terminate()  # training saves its state and stops; what else runs has its state on disk
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def execute(self, plan: Sequence[Run] | Callable[[], Sequence[Run]], expected: int = 0) -> None:
        """Do all runs and what they build on. A failing run stops only what depends on it; then raises for it.

        A `plan` that is called says which runs are known by now; it is asked again after each run that is done, since
        results may decide what comes next. `expected`: how many runs that will be in the end, for the progress line.
        """
        ask: Callable[[], Sequence[Run]] = plan if callable(plan) else lambda: plan
        todo = with_parents(ask())
        failed = self._failed_before(todo)
        running: dict[Future[str | None], Run] = {}
        finished = {r.fingerprint for r in todo if r.done}
        waiting = self._in_order(todo, [r for r in todo if not r.done and r.fingerprint not in failed])
        total, started = max(len(waiting), expected - len(finished)), time.monotonic()
        done_now = 0
        again: dict[str, float] = {}  # when to look at a busy run again
        while waiting or running:
            left = len(waiting) + len(running)
            for run in list(waiting):
                if run.done and self.patient:  # another driver has done it
                    waiting.remove(run)
                    finished.add(run.fingerprint)
                elif any(p.fingerprint in failed for p in run.parents):
                    failed[run.fingerprint] = f"{run.stage}: not done, since it builds on a stage that failed"
                    waiting.remove(run)
                elif self._may_start(run, running, finished) and again.get(run.fingerprint, 0.0) <= time.monotonic():
                    waiting.remove(run)
                    if self.pool is None:
                        outcome = attempt(run, self.debug, False, self._take_share(run), self.store)
                        self._record(run, outcome, failed, finished, waiting, again)
                        break
                    running[self._submit(run)] = run
            if running:
                done = wait(running, timeout=LOOK_AGAIN if again else None, return_when=FIRST_COMPLETED).done
                for future in done:
                    outcome = self._outcome(future, running[future])
                    self._record(running.pop(future), outcome, failed, finished, waiting, again)
            elif waiting and left == len(waiting):
                time.sleep(LOOK_AGAIN / 5)  # all that is left is another driver's
                continue
            came = left - len(waiting) - len(running)
            if came and callable(plan):
                new = [r for r in with_parents(ask()) if r.fingerprint not in {t.fingerprint for t in todo}]
                todo += new
                finished |= {r.fingerprint for r in new if r.done}
                waiting = self._in_order(todo, [*waiting, *(r for r in new if not r.done)])
            done_now += came
            total = max(total, done_now + len(waiting) + len(running))
            if came and total > 1:
                rest = (time.monotonic() - started) / max(1, done_now) * (total - done_now)
                print(f"{done_now} of {total} runs done, about {rest:.0f} s left", flush=True)
        if failed:
            raise TutelageError(_of_failures(failed) if self.patient else next(iter(failed.values())))

    def _submit(self, run: Run) -> Future[str | None]:
        share = self._take_share(run)
        do: Callable[..., str | None] = work if isinstance(self.pool, ProcessPoolExecutor) else attempt
        try:
            return self.pool.submit(do, run, self.debug, self.patient, share, self.store)
        except BrokenProcessPool:  # a worker died just now; its future will say so too
            if not self.patient:
                raise
            self._renew()
            return self.pool.submit(do, run, self.debug, self.patient, share, self.store)

    def _renew(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.pool = _processes(self.jobs)

    def _failed_before(self, todo: Sequence[Run]) -> dict[str, str]:
        if not self.patient or self.retry:
            return {}
        files = {r.fingerprint: r.folder / ERROR for r in todo if not r.done}
        return {mark: file.read_text().strip() for mark, file in files.items() if file.is_file()}

    def _in_order(self, todo: Sequence[Run], waiting: Sequence[Run]) -> list[Run]:
        """Those that begin the longest chain first."""
        chains = self._chains(todo)
        return sorted(waiting, key=lambda run: -chains[run.fingerprint])

    def _chains(self, todo: Sequence[Run]) -> dict[str, float]:
        """Hours from a run's start to the end of the last run that waits for it, were there jobs for all."""
        after: dict[str, float] = defaultdict(float)  # the longest chain of those that build on it
        chains: dict[str, float] = {}
        for run in reversed(todo):  # children before parents
            hours = 0.0 if run.done else 1.0 if self.hours is None else self.hours(run)
            chains[run.fingerprint] = chain = hours + after[run.fingerprint]
            for parent in run.parents:
                after[parent.fingerprint] = max(after[parent.fingerprint], chain)
        return chains

    def _ranks(self, run: Run) -> int:
        return self.ranks if takes_ranks(run) else 1

    def _take_share(self, run: Run) -> Share:
        ranks, gpus = self._ranks(run), []
        if self.free is not None and run.device == "cuda":
            gpus, self.free = self.free[:ranks], self.free[ranks:]
        self.shares[run.fingerprint] = share = Share(ranks, tuple(gpus))
        return share

    def _may_start(self, run: Run, running: dict[Future[str | None], Run], finished: set[str]) -> bool:
        if len(running) >= self.jobs or not all(p.fingerprint in finished for p in run.parents):
            return False
        if self.free is not None and run.device == "cuda" and len(self.free) < self._ranks(run):
            return False
        if self.memory is None or self.budget is None or not running:
            return True
        return sum(map(self.memory, running.values())) + self.memory(run) <= self.budget

    def _record(
        self,
        run: Run,
        error: str | None,
        failed: dict[str, str],
        finished: set[str],
        waiting: list[Run],
        again: dict[str, float],
    ) -> None:
        again.pop(run.fingerprint, None)
        share = self.shares.pop(run.fingerprint)
        if self.free is not None:
            self.free += share.gpus
        if error is None:
            finished.add(run.fingerprint)
        elif isinstance(error, Busy) and self.patient:
            waiting.append(run)
            again[run.fingerprint] = time.monotonic() + LOOK_AGAIN
        else:
            failed[run.fingerprint] = error
            print(f"failed: {error}", flush=True)

    def _outcome(self, future: Future[str | None], run: Run) -> str | None:
        """What a worker says of its run; a worker that was killed can say nothing, and takes the pool with it."""
        try:
            return future.result()
        except BrokenProcessPool as error:
            if not self.patient:
                raise TutelageError(
                    "a worker was killed from outside, probably for want of memory: use fewer `--jobs` or a smaller "
                    "`training.tokens_per_micro_batch`; the same command goes on from the last checkpoints"
                ) from error
            if getattr(self.pool, "_broken", False):
                self._renew()
        except Exception as error:  # of an executor of another kind, whose worker died
            if not self.patient or not type(error).__module__.startswith("ray"):
                raise
        # All runs of a broken pool come here, the guilty one among them: each goes on from its last checkpoint.
        self.crashes[run.fingerprint] += 1
        if self.crashes[run.fingerprint] <= CRASHES:
            return Busy("its worker was killed")
        line = f"{run.stage}: its worker was killed {CRASHES + 1} times, probably for want of memory"
        write_atomically(run.folder / ERROR, line + "\n")
        if self.store is not None:
            self.store.push_error(run)
        return line


def _of_failures(failed: dict[str, str]) -> str:
    first = next(iter(failed.values()))
    after = sum("builds on a stage that failed" in line for line in failed.values())
    rest = f"; {len(failed) - after} runs failed, {after} wait for them" if len(failed) > 1 else ""
    return f"{first}{rest} (--retry tries failed runs again)"


def _processes(jobs: int) -> ProcessPoolExecutor:
    import multiprocessing

    return ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=begin_worker, initargs=(os.getpid(),)
    )
