"""A disk that is full and folders that may not be written any more: one line of error, and the same command goes on."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from pathlib import Path
from random import Random

from bench.torture.loads import Loads
from bench.torture.machine import Load, Row, at_write, empty, tutelage, void

LARGE = 256 << 20
BY_LIMIT = "by a limit on the size of a file"
MS_REMOUNT = 32
CAP_DAC_OVERRIDE = 1


class Disk:
    """A tmpfs at `folder`, of a size that changes; where mounts are not allowed, a limit on the size of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.size = folder, LARGE
        folder.mkdir(parents=True, exist_ok=True)
        self.mounted = self._mount(0) == 0

    def resize(self, size: int) -> None:
        self.size = size
        if self.mounted and self._mount(MS_REMOUNT):
            raise OSError(f"{self.folder} cannot have {size} bytes")

    def limit(self) -> None:
        """In a fork, before its program: the fallback."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))

    def close(self) -> None:
        if self.mounted:
            ctypes.CDLL(None).umount2(os.fsencode(self.folder), 2)

    def _mount(self, flags: int) -> int:
        options = f"size={self.size}".encode()
        return ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", flags, options)


def used(folder: Path) -> int:
    """Bytes of all files below a folder, in pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def disk_full(name: str, loads: Loads, disk: Disk, chance: Random, count: int) -> Row:
    """A load on a disk that is full again and again, at random sizes, until it has space for all."""
    empty(disk.folder)
    load = loads[name]
    most = max(used(load.folder), 1 << 16) if disk.mounted else largest(load.folder)
    row = Row(f"disk full: {name}", note="" if disk.mounted else BY_LIMIT)
    while row.faults < count:
        load.begin()
        size = used(disk.folder) + int(most * chance.uniform(0.02, 0.6))
        for _ in range(6):
            disk.resize(size)
            ended = load.run(disk.limit).ended()
            problem = ended.problem(may_fail=True)
            row.losses += [f"{name}, {size} bytes: {problem}"] if problem else []
            if ended.code == 0:
                break
            row.faults += 1
            size += int(most * chance.uniform(0.05, 0.4))
        disk.resize(LARGE)
        load.finish(row, f", after {size} bytes")
    return row


def report_full(loads: Loads, disk: Disk, chance: Random, count: int) -> Row:
    """The report of finished runs, with its figures, into a disk that is too small for it."""
    loads["training"].begin()
    loads["training"].run().ended()
    empty(disk.folder)
    out = disk.folder / "report"
    work = lambda: tutelage("report", loads.folder / "training.yaml", "--runs", loads.runs, "--out", out)  # noqa: E731
    load = Load("report", work, out, loads.folder)
    load.measure()
    most, row = used(out), Row("disk full: report", note="" if disk.mounted else BY_LIMIT)
    while row.faults < count:
        shutil.rmtree(out, ignore_errors=True)
        disk.resize(max(4096, int(most * chance.uniform(0.0, 0.9))))
        ended = load.run(disk.limit).ended()
        problem = ended.problem(may_fail=True) or (None if ended.code else "nothing was said")
        row.losses += [f"report: {problem}"] if problem else []
        row.faults += 1
        disk.resize(LARGE)
        load.finish(row)
    return row


def largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_only(name: str, loads: Loads, chance: Random, count: int) -> Row:
    """All folders of a load lose their permission to be written at a random write."""
    load, row = loads[name], Row(f"folder read-only: {name}", note="mode 0555")
    if os.getuid() == 0:
        row.note += ", as root without CAP_DAC_OVERRIDE"
    while row.faults < count:
        load.begin()
        at = chance.randint(1, load.writes)

        def forbid(at: int = at) -> None:
            obey_modes()
            void(at_write(load.folder, at, lambda: modes(load.folder, 0o555)))

        ended = load.run(forbid).ended()
        problem = ended.problem(may_fail=True)
        row.losses += [f"{name}, write {at}: {problem}"] if problem else []
        row.faults += 1
        modes(load.folder, 0o755)
        load.finish(row, f", after write {at}")
    return row


def obey_modes() -> None:
    """Root may write everywhere, unless it gives up this capability."""
    if os.getuid():
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: twice 32 bits
    library = ctypes.CDLL(None)
    library.capget(header, sets)
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE)
    if library.capset(header, sets):
        raise OSError("CAP_DAC_OVERRIDE cannot be given up")


def modes(folder: Path, mode: int) -> None:
    """Set the mode of a folder and of all folders below it."""
    for place, _, _ in os.walk(folder, topdown=False):
        os.chmod(place, mode)
