"""Programs that are forked from a process which has imported everything, killed at chosen moments, and compared."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tutelage.common.metrics_log import read_metrics

CLOCKS = ("second", "per_s", "speed", "sampler_share", "peak_gib")
CLOCK_WORDS = ("minutes", "rows per second", "of the time in the sampler", "tokens/s")  # of pages
NOT_RESULTS = {"log.txt", "environment.json", "checksums.json", "speed.json", "error.log"}
LEFT_BEHIND = ("lock", "checkpoints", "error.txt")
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile"}


@dataclass
class Row:
    """One line of the table. `losses`: what went wrong, one line each."""

    what: str
    faults: int = 0
    kills: int = 0
    losses: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""
    place: int = 0  # in the table


@dataclass(frozen=True)
class Ended:
    """How a program ended and what it printed."""

    code: int  # negative: the signal that killed it
    said: str

    @property
    def line(self) -> str:
        """Its last line."""
        return (self.said.strip().splitlines() or [""])[-1]

    def problem(self, may_fail: bool) -> str | None:
        """What is wrong with the way in which it ended, if anything: a traceback, or an error that nobody expects."""
        if "Traceback" in self.said:
            return f"a traceback: {self.line}"
        if self.code == 0 or (may_fail and self.code == 1 and self.line.startswith("tutelage: ")):
            return None
        return f"exit code {self.code}: {self.line}"


def tutelage(*words: object) -> None:
    """The command `tutelage`, in this process."""
    from tutelage.cli.main import main

    main([str(word) for word in words])


class Program:
    """A fork that runs `work`. Its output goes into `log`."""

    def __init__(self, work: Callable[[], None], log: Path, before: Callable[[], None] = lambda: None) -> None:
        self.log = log
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            self._be(work, before)

    def _be(self, work: Callable[[], None], before: Callable[[], None]) -> None:
        code = 1
        try:
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(descriptor, number)
            before()
            work()
            code = 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def is_over(self) -> bool:
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self, after: float) -> None:
        """Kill it after so many seconds, unless it has ended by then."""
        end = time.monotonic() + after
        while not self.is_over() and time.monotonic() < end:
            time.sleep(0.002)
        os.kill(self.process, signal.SIGKILL)

    def ended(self, limit: float = 300.0) -> Ended:
        """Wait for its end; one that takes longer than `limit` seconds hangs, and is killed."""
        end = time.monotonic() + limit
        while not self.is_over():
            if time.monotonic() > end:
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return Ended(-signal.SIGKILL, f"it hung for {limit:.0f} s")
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return Ended(code, self.log.read_text(errors="replace"))


def at_write(folder: Path, number: int, act: Callable[[], None]) -> Callable[[], int]:
    """Call `act` just before this process's write number `number` (from 1) below `folder`: a file opened for writing, a
    rename, a removal, a new folder. Returns a function that says how many there were."""
    seen, root = 0, str(folder)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in EVENTS:
            return
        if not str(arguments[0]).startswith(root):
            return
        seen += 1
        if seen == number:
            act()

    sys.addaudithook(watch)
    return lambda: seen


def die() -> None:
    """SIGKILL, as the system does when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)


def content(folder: Path) -> dict[str, Any]:
    """All results below a folder: bytes, but for what says how long something took or which reply ended first."""
    out: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in LEFT_BEHIND or (path.name.startswith(".") and (path.parent / "config.json").is_file()):
            out[name] = "left behind"
        elif path.name in NOT_RESULTS or not path.is_file() or path.name.endswith(".partial"):
            continue
        elif path.suffix == ".html":
            lines = path.read_text().splitlines()
            out[name] = [line for line in lines if not any(word in line for word in CLOCK_WORDS)]
        elif path.name == "metrics.jsonl":
            out[name] = _timeless(read_metrics(path))
        elif path.name in ("result.json", "summary.json"):
            out[name] = _timeless(json.loads(path.read_bytes()))
        elif path.name == "responses.jsonl":
            out[name] = sorted(path.read_bytes().splitlines())
        else:
            out[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return out


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not any(word in k for word in CLOCKS)}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def difference(found: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """The first file in which results differ from the unbroken ones, if there is one."""
    names = [name for name in sorted({*found, *whole}) if found.get(name) != whole.get(name)]
    kinds = {name: "missing" if name not in found else found[name] if name not in whole else "" for name in names[:1]}
    return next((f"{name} {'is ' + kind if isinstance(kind, str) and kind.islower() and len(kind) < 20 else 'differs'}"
                 for name, kind in kinds.items()), None)  # fmt: skip


@dataclass
class Load:
    """A program to be disturbed, the folder that it works in, and its unbroken results."""

    name: str
    work: Callable[[], None]
    folder: Path
    logs: Path
    start: Path | None = None  # what the folder holds before; None: nothing
    whole: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    writes: int = 0  # of the unbroken run's first process

    def begin(self) -> None:
        """Put the folder into its first state."""
        empty(self.folder)
        if self.start is not None:
            shutil.copytree(self.start, self.folder, dirs_exist_ok=True)

    def measure(self) -> None:
        """Run it unbroken, once."""
        if self.whole:
            return
        self.begin()
        count = self.logs / "writes"

        def counted() -> None:
            seen = at_write(self.folder, 0, lambda: None)
            self.work()
            count.write_text(str(seen()))

        began = time.monotonic()
        ended = Program(counted, self.log).ended()
        self.seconds = time.monotonic() - began
        if ended.code:
            raise SystemExit(f"{self.name}: the unbroken run failed: {ended.said[-3000:]}")
        self.whole, self.writes = content(self.folder), int(count.read_text())

    @property
    def log(self) -> Path:
        return self.logs / f"{self.name}.log"

    def run(self, before: Callable[[], None] = lambda: None) -> Program:
        """Start it."""
        return Program(self.work, self.log, before)

    def finish(self, row: Row, why: str = "", before: Callable[[], None] = lambda: None) -> None:
        """Run it to its end, and note what is lost."""
        ended = self.run(before).ended()
        problem = ended.problem(may_fail=False) or difference(content(self.folder), self.whole)
        if problem:
            row.losses.append(f"{self.name}{why}: {problem}")

    def kill(self, chance: Random, row: Row) -> bool:
        """Start it and kill it, at a random moment or write. Returns whether it was killed, not done before."""
        if chance.random() < 0.5:
            number = chance.randint(1, max(1, self.writes))
            program = self.run(lambda: void(at_write(self.folder, number, die)))
        else:
            program = self.run()
            program.kill(chance.uniform(0.0, self.seconds))
        ended = program.ended()
        if ended.code != -signal.SIGKILL:
            problem = ended.problem(may_fail=False) or difference(content(self.folder), self.whole)
            row.losses += [f"{self.name}: {problem}"] if problem else []
            return False
        row.kills += 1
        return True


def void(_: object) -> None:
    """Make an expression's value nothing."""


def empty(folder: Path) -> None:
    """Remove all in a folder, which may be a mount; makes it if it is absent."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
