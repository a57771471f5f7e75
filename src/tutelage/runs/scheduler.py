"""Doing runs in the order of their dependencies, several at the same time if asked, nothing twice."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.interrupt import say_stopping
from tutelage.common.planned import announce, withdraw
from tutelage.common.progress import Whole, notes_file, whole
from tutelage.common.run_folder import ERROR, RESULT, read_json
from tutelage.evaluation.compare import edge_text
from tutelage.runs.ranks import Share
from tutelage.runs.run import Run, gpus_of, takes_ranks, with_parents
from tutelage.runs.store import Store
from tutelage.runs.worker import Busy, attempt, begin_worker, tidy, work

BUSY_SECONDS = 1.0  # until a run that another process is working on is tried again
CRASHES = 2  # a run is tried again after so many deaths of its worker, then it has failed


class Resources:
    """What runs at the same time share: how many there may be, and which GPUs each gets.

    `ranks`: processes of a training run. `gpus`: ids of GPUs; each run on CUDA gets its own (`gpus_of`; None: runs
    share GPUs). `shared_gpus`: the ids then, among which the worker processes are dealt out; empty: each sees them all.
    `memory` and `budget`: the runs' GiB, by `memory`, may add up to `budget`.
    """

    def __init__(
        self,
        jobs: int = 1,
        *,
        ranks: int = 1,
        gpus: Sequence[str] | None = None,
        shared_gpus: Sequence[str] = (),
        memory: Callable[[Run], float] | None = None,
        budget: float | None = None,
    ) -> None:
        self.jobs, self.ranks, self.memory, self.budget = jobs, ranks, memory, budget
        self.shared_gpus = list(shared_gpus)
        self.free_gpus = None if gpus is None else list(gpus)
        self._shares: dict[str, Share] = {}  # by fingerprint, of the runs at work

    def have_room(self, run: Run, running: Iterable[Run]) -> bool:
        """Whether `run` may start beside those that are running."""
        others = list(running)
        if len(others) >= self.jobs:
            return False
        if self.free_gpus is not None and run.device == "cuda" and len(self.free_gpus) < gpus_of(run, self.ranks):
            return False
        if self.memory is None or self.budget is None or not others:
            return True
        return sum(map(self.memory, others)) + self.memory(run) <= self.budget

    def take(self, run: Run) -> Share:
        """Take the ranks and GPUs of a run that starts."""
        ranks, gpus = self.ranks if takes_ranks(run) else 1, []
        if self.free_gpus is not None and run.device == "cuda":
            count = gpus_of(run, self.ranks)
            gpus, self.free_gpus = self.free_gpus[:count], self.free_gpus[count:]
        self._shares[run.fingerprint] = share = Share(ranks, tuple(gpus))
        return share

    def give_back(self, run: Run) -> None:
        """Free the GPUs of a run that has ended."""
        share = self._shares.pop(run.fingerprint)
        if self.free_gpus is not None:
            self.free_gpus += share.gpus


@dataclass
class State:
    """Where the runs of one `execute` are: each is waiting, running, finished or failed."""

    todo: list[Run]  # all that are known by now, parents before children
    waiting: list[Run] = field(default_factory=list)  # in the order in which they should start
    running: dict[Future[str | None], Run] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)  # fingerprints
    failed: dict[str, str] = field(default_factory=dict)  # fingerprint → one line that says why
    not_before: dict[str, float] = field(default_factory=dict)  # fingerprint of a busy run → when to try again

    @property
    def left(self) -> int:
        """How many are waiting or running."""
        return len(self.waiting) + len(self.running)

    @property
    def goes_on(self) -> bool:
        """Whether there is a run that builds on none that failed."""
        return bool(self.running) or any(
            not any(parent.fingerprint in self.failed for parent in with_parents([run])) for run in self.waiting
        )

    def may_start(self, run: Run) -> bool:
        """Whether the run's parents are finished, and a busy run has been left alone for long enough."""
        ready = all(parent.fingerprint in self.finished for parent in run.parents)
        return ready and self.not_before.get(run.fingerprint, 0.0) <= time.monotonic()


class Scheduler:
    """Does runs in the order of their dependencies, in this process or in several.

    A run that another process is working on is waited for. Without `patient` (recipes), anything that goes wrong with
    a run is its failure, and a killed worker stops all. With `patient` (studies):

    - a run that failed in an earlier call (it has an error.txt) is left alone, unless `retry`;
    - a killed worker costs only its own run, which is tried again, `CRASHES` times;
    - a run in a worker process prints into its log.txt, not to the terminal;
    - the error raised at the end counts all failures.

    `hours`: how long a run may take; runs that begin the longest chain of work go first (by default, the chain of most
    runs). `seconds`: the same for the time left that is shown, where that is another. `pool`: an executor with `submit`
    and `shutdown`; by default, processes if there are several jobs. `title`: of the progress; `texts`: whether it may
    show rows and answers.
    """

    def __init__(
        self,
        resources: Resources,
        debug: bool = False,
        *,
        patient: bool = False,
        retry: bool = False,
        hours: Callable[[Run], float] | None = None,
        seconds: Callable[[Run], float] | None = None,
        pool: Any = None,
        store: Store | None = None,
        title: str = "all",
        texts: bool = False,
    ) -> None:
        self.resources, self.debug, self.patient, self.retry = resources, debug, patient, retry
        self.hours, self.seconds, self.store = hours, seconds or hours, store
        self.title, self.texts = title, texts
        self.pool: Any = pool
        self.crashes: Counter[str] = Counter()
        self.waited: set[str] = set()  # runs of other processes, told once each; of a study only the first
        self.whole = Whole(title, resources.jobs, bars=False)

    def __enter__(self) -> Scheduler:
        if self.resources.jobs > 1 and self.pool is None:
            self.pool = _processes(self.resources)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        workers = list((getattr(self.pool, "_processes", None) or {}).values())
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            if workers:
                say_stopping()
            for process in workers:
                process.terminate()  # training saves its state and stops; other runs keep theirs on disk
        if self.pool is not None:
            try:
                self.pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:  # asked again: what is not saved by now is lost
                for process in workers:
                    process.kill()
                raise

    def execute(self, plan: Sequence[Run] | Callable[[], Sequence[Run]], expected: int = 0) -> None:
        """Do all runs of `plan` and those that they build on. A run that fails stops only the runs that depend on it;
        at the end, TutelageError is raised for it.

        A callable `plan` returns the runs that are known by now; it is called again after each run that is done, since
        results may decide what comes next. `expected`: how many runs there will be in the end, for the progress line.
        """
        known: Callable[[], Sequence[Run]] = plan if callable(plan) else lambda: plan
        state = self._begin(with_parents(known()))
        roots = {run.folder.parent for run in state.todo}
        # In a study's own process the run prints into its log; in workers every run has its own lines.
        bars = self.pool is None and not self.patient
        try:
            with whole(self.title, self.resources.jobs, bars=bars, texts=self.texts) as self.whole:
                self._expect(state, expected)
                while state.left:
                    before = state.left
                    self._start(state)
                    if state.running:
                        self._collect(state)
                    elif state.left == before:
                        time.sleep(BUSY_SECONDS / 5)  # other processes are working on all that is left
                    if state.left < before and callable(plan):
                        self._add(state, with_parents(known()))
                        self._expect(state, expected)
        finally:
            for root in roots:
                withdraw(root)
        if state.failed:
            raise TutelageError(_failures(state.failed) if self.patient else next(iter(state.failed.values())))

    def _expect(self, state: State, expected: int) -> None:
        """Tell the progress of the runs that are known, and of as many more as there will be in the end."""
        for run in state.waiting:
            self.whole.left.add(run.fingerprint, run.kind, 1.0 if self.seconds is None else self.seconds(run))
        self.whole.left.expect(expected - len(state.todo))

    def _begin(self, todo: list[Run]) -> State:
        state = State(todo)
        for run in todo:
            if run.done:
                tidy(run)
                state.finished.add(run.fingerprint)
        if self.patient and not self.retry:
            errors = {run.fingerprint: run.folder / ERROR for run in todo if not run.done}
            state.failed = {key: file.read_text().strip() for key, file in errors.items() if file.is_file()}
        open_runs = [run for run in todo if not run.done and run.fingerprint not in state.failed]
        state.waiting = self._in_order(todo, open_runs)
        self._announce(state)
        return state

    def _add(self, state: State, known: Sequence[Run]) -> None:
        """Add the runs that have become known."""
        old = {run.fingerprint for run in state.todo}
        new = [run for run in known if run.fingerprint not in old]
        if not new:
            return
        state.todo += new
        state.finished |= {run.fingerprint for run in new if run.done}
        state.waiting = self._in_order(state.todo, [*state.waiting, *(run for run in new if not run.done)])
        self._announce(state)

    def _announce(self, state: State) -> None:
        """Write down what is going to be done, for those who watch."""
        for root in {run.folder.parent for run in state.todo}:
            lines: list[dict[str, Any]] = []
            for run in state.todo:
                if run.folder.parent == root:
                    line = {"folder": run.folder.name, "stage": run.stage, "kind": run.kind, "seed": run.seed}
                    lines.append({**line, "parents": [parent.folder.name for parent in run.parents]})
            announce(root, lines, self.title)

    def _start(self, state: State) -> None:
        """Start the waiting runs that can; without a pool, do the first of them here."""
        for run in list(state.waiting):
            if run.done:  # another process has done it
                state.waiting.remove(run)
                state.finished.add(run.fingerprint)
                self.whole.left.drop(run.fingerprint, done=True)
            elif any(parent.fingerprint in state.failed for parent in run.parents):
                state.waiting.remove(run)
                state.failed[run.fingerprint] = f"{run.stage}: not done, since it builds on a stage that failed"
                self.whole.left.drop(run.fingerprint)
            elif state.may_start(run) and self.resources.have_room(run, state.running.values()):
                state.waiting.remove(run)
                self.whole.begin(run.fingerprint)
                if self.pool is None:
                    outcome = attempt(run, self.debug, False, self.resources.take(run), self.store)
                    self._record(state, run, outcome)
                    return
                state.running[self._submit(run)] = run

    def _collect(self, state: State) -> None:
        """Wait until a run has ended, or until a busy run should be tried again."""
        done = wait(state.running, BUSY_SECONDS if state.not_before else None, return_when=FIRST_COMPLETED).done
        for future in done:
            outcome = self._outcome(future, state.running[future])
            self._record(state, state.running.pop(future), outcome)

    def _record(self, state: State, run: Run, error: str | None) -> None:
        state.not_before.pop(run.fingerprint, None)
        self.resources.give_back(run)
        if error is None:
            state.finished.add(run.fingerprint)
            self.whole.end(run.fingerprint, run.folder.name if self.patient else run.stage, _outcome_text(run))
        elif isinstance(error, Busy):
            told = self.waited if self.patient else run.fingerprint in self.waited
            if not told and error.startswith(f"{run.stage}: "):  # not where its own worker was killed
                print(f"{error.partition('; ')[0]}: waiting for it", flush=True)
                self.waited.add(run.fingerprint)
            state.waiting.append(run)
            state.not_before[run.fingerprint] = time.monotonic() + BUSY_SECONDS
        else:
            state.failed[run.fingerprint] = error
            self.whole.left.drop(run.fingerprint)
            if self.patient or state.goes_on or len(state.failed) > 1:  # else the error that is raised says it
                print(f"failed: {error}", flush=True)

    def _submit(self, run: Run) -> Future[str | None]:
        share = self.resources.take(run)
        do: Callable[..., str | None] = work if isinstance(self.pool, ProcessPoolExecutor) else attempt
        # Workers inherit the mask: Ctrl-C in a terminal reaches them too, even before they can ignore it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.pool.submit(do, run, self.debug, self.patient, share, self.store)
        except BrokenProcessPool:  # a worker died just now; its future will report that too
            if not self.patient:
                raise
            self._renew_pool()
            return self.pool.submit(do, run, self.debug, self.patient, share, self.store)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _renew_pool(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.pool = _processes(self.resources)

    def _outcome(self, future: Future[str | None], run: Run) -> str | None:
        """What `attempt` returned in a worker. A worker that was killed returns nothing, and breaks its pool."""
        try:
            return future.result()
        except BrokenProcessPool as error:
            if not self.patient:
                raise TutelageError(
                    "a worker was killed from outside, perhaps out of memory: use fewer `--jobs` or a smaller "
                    "`training.tokens_per_micro_batch`; the same command goes on from the last checkpoints"
                ) from error
            if getattr(self.pool, "_broken", False):
                self._renew_pool()
        except Exception as error:  # from another kind of executor, whose worker died
            if not self.patient or not type(error).__module__.startswith("ray"):
                raise
        # All runs of a broken pool come here, including the one at fault: each goes on from its last checkpoint.
        self.crashes[run.fingerprint] += 1
        if self.crashes[run.fingerprint] <= CRASHES:
            return Busy("its worker was killed")
        line = f"{run.stage}: its worker was killed {CRASHES + 1} times, perhaps out of memory"
        write_atomically(run.folder / ERROR, line + "\n")
        if self.store is not None:
            self.store.push_error(run)
        return line

    def _in_order(self, todo: Sequence[Run], waiting: Sequence[Run]) -> list[Run]:
        """The waiting runs, those that begin the longest chain first."""
        chains = self._chains(todo)
        return sorted(waiting, key=lambda run: -chains[run.fingerprint])

    def _chains(self, todo: Sequence[Run]) -> dict[str, float]:
        """Hours from a run's start to the end of the last run that waits for it, with unlimited jobs."""
        after: dict[str, float] = defaultdict(float)  # the longest chain among the runs that build on it
        chains: dict[str, float] = {}
        for run in reversed(todo):  # children before parents
            hours = 0.0 if run.done else 1.0 if self.hours is None else self.hours(run)
            chains[run.fingerprint] = chain = hours + after[run.fingerprint]
            for parent in run.parents:
                after[parent.fingerprint] = max(after[parent.fingerprint], chain)
        return chains


def _outcome_text(run: Run) -> str:
    """What came out of a run that has just been done, in a few words: its last loss, or its score."""
    if not run.done:
        return ""
    result = read_json(run.folder, RESULT)
    if isinstance(loss := (result.get("last") or {}).get("loss"), float):
        return f"loss {loss:.3g}"
    headline = result.get("headline")
    found = (result.get("metrics") or {}).get(headline) or {}
    value, error = found.get("value"), found.get("stderr")
    if value is None:
        return ""
    plain = f"{value:.1f}" if error is None else f"{value:.1f} ± {error:.1f}"
    return f"{headline} {edge_text(headline, value, error, result.get('n', 0), 1) or plain}"


def _failures(failed: dict[str, str]) -> str:
    """One line for all failures: the first, and how many there are."""
    first = next(iter(failed.values()))
    dependent = sum("builds on a stage that failed" in line for line in failed.values())
    rest = f"; {len(failed) - dependent} runs failed, {dependent} wait for them" if len(failed) > 1 else ""
    return f"{first}{rest} (--retry tries failed runs again)"


def _dealt_out(resources: Resources) -> list[str]:
    """The GPU of each worker process; empty if each sees them all."""
    gpus = resources.shared_gpus
    return [gpus[number % len(gpus)] for number in range(resources.jobs)] if gpus else []


def _processes(resources: Resources) -> ProcessPoolExecutor:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    gpus = context.SimpleQueue()  # each worker process takes one when it starts
    for gpu in _dealt_out(resources):
        gpus.put(gpu)
    return ProcessPoolExecutor(
        resources.jobs, context, initializer=begin_worker, initargs=(os.getpid(), gpus, notes_file())
    )
