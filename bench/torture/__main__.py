"""A machine that breaks: runs are killed, starved of disk, damaged and misled, and must end in their unbroken results.

    python -m bench.torture --seed 0 --minutes 18                                 # make torture
    python -m bench.torture --short                                               # a minute or two, fewer faults
    python -m bench.torture --only kills --only disk --json docs/results/bench/torture.json

Every row of the table runs tiny models on the CPU. A loss is a result that differs from the unbroken run's in any byte
but clocks, a file left behind, a traceback, an error of several lines, or a hang. The exit code is 1 after any loss, or
when `--minutes` are over before the last row.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; sums then come out bit for bit the same
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from bench.torture.machine import Row
from bench.torture.outside import Hub

LANES = 2  # rows at the same time, one per core
IMPORTED = ("tutelage.cli.main", "tutelage.training.trainer", "tutelage.sampling.engine", "tutelage.runs.do_run",
            "tutelage.report.recipe.page", "tutelage.study.run_study", "huggingface_hub", "matplotlib.figure",
            "rouge_score.rouge_scorer")  # fmt: skip


def parts(
    folder: Path, options: argparse.Namespace, hub: Hub, closing: contextlib.ExitStack
) -> dict[str, Callable[[Random], Row]]:
    """The rows of the table by name, in their order. `closing` ends what they share."""
    from bench.torture.damage import STOPPED, finished, stopped
    from bench.torture.kills import kills
    from bench.torture.loads import Loads, fork_workers
    from bench.torture.outside import clocks, hub_row, judge, two
    from bench.torture.storage import Disk, disk_full, read_only, report_full

    loads = Loads(folder)
    loads.prepare()
    fork_workers()
    count = 1 if options.short else options.kills
    out: dict[str, Callable[[Random], Row]] = {}
    for name in ("training", "seqkd", "synthesis", "evaluation", "search", "study"):
        out[f"kills-{name}"] = lambda chance, name=name: kills(name, loads, chance, count)
    disk = Disk(folder / "disk")
    closing.callback(disk.close)
    small, few = Loads(folder, disk.folder / "runs"), 1 if options.short else 6
    for name in ("training", "synthesis", "evaluation"):
        out[f"disk-{name}"] = lambda chance, name=name: disk_full(name, small, disk, chance, few)
    out["disk-report"] = lambda chance: report_full(loads, disk, chance, few)
    for name in ("training", "evaluation"):
        out[f"read-only-{name}"] = lambda chance, name=name: read_only(name, loads, chance, few)
    for name in STOPPED:
        out[f"damage-{name}"] = lambda chance, name=name: stopped(name, loads, chance, 2 * few)
    out["damage-finished"] = lambda chance: finished(loads, chance, 4 * few)
    for name in ("training", "synthesis", "evaluation"):
        out[f"clocks-{name}"] = lambda chance, name=name: clocks(name, loads, chance, few)
    for name in ("training", "evaluation", "study"):
        out[f"two-{name}"] = lambda chance, name=name: two(name, loads, chance, max(1, few // 2))
    out["judge"] = lambda chance: judge(folder, chance, 20 * few)
    out["hub"] = lambda chance: hub_row(hub, loads, chance, 2 * few)
    return out


def show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "kills", "faults", "losses", "seconds")
    for row in rows:
        lost = str(len(row.losses)) if row.losses else "none"
        what = f"{row.what} ({row.note})" if row.note else row.what
        table.add_row(what, str(row.kills or "–"), str(row.faults), lost, f"{row.seconds:.0f}")
    Console(width=120).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of all moments, files and bits")
    parser.add_argument("--minutes", type=float, default=18.0, help="no row begins after so long")
    parser.add_argument("--kills", type=int, default=20, help="per kind of work")
    parser.add_argument("--short", action="store_true", help="few faults of each kind")
    parser.add_argument("--only", action="append", help="rows whose name begins so; may be repeated")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def lane(part_of: int, options: argparse.Namespace, hub: Hub) -> tuple[list[Row], list[str]]:
    """Do every second row (the hub's in the first lane, which has its server), in a folder of its own. Returns the rows
    and the names of those for which there was no time."""
    folder, began = Path(tempfile.mkdtemp(prefix="torture-")), time.monotonic()
    os.environ |= {"TUTELAGE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub")}
    _use_hub_cache(folder / "hub" / "hub")
    rows: list[Row] = []
    late: list[str] = []
    with contextlib.ExitStack() as closing:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        every = parts(folder, options, hub, closing)
        names = [name for name in every if not options.only or any(name.startswith(one) for one in options.only)]
        for place, name in enumerate(names):
            if (0 if name == "hub" else place % LANES) != part_of:
                continue
            start = time.monotonic()
            if start - began > 60 * options.minutes:
                late.append(name)
                continue
            try:
                row = every[name](Random(f"{options.seed} {name}"))
            except Exception as error:  # this benchmark's own fault, which must not cost the other rows
                traceback.print_exc()
                row = Row(name, losses=[f"not tried: {type(error).__name__}: {error}"])
            row.place, row.seconds = list(every).index(name), time.monotonic() - start
            rows.append(row)
            print(f"{name}: {row.faults} faults, {row.kills} kills, {row.seconds:.0f} s, losses: "
                  f"{'; '.join(row.losses) or 'none'}", file=sys.stderr, flush=True)  # fmt: skip
    return rows, late


def _use_hub_cache(folder: Path) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_CACHE = str(folder)


def other_lane(options: argparse.Namespace, hub: Hub, out: Path) -> int:
    """Start the second lane as a fork, which writes its rows to a file; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        from tutelage.runs.ranks import die_with_parent

        die_with_parent(os.getppid())
        rows, late = lane(1, options, hub)
        out.write_text(json.dumps([[vars(row) for row in rows], late]))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    options, hub, began = parse(), Hub(), time.monotonic()
    os.environ |= {"HF_ENDPOINT": hub.url, "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ.pop("HF_HUB_OFFLINE", None)
    import torch

    torch.set_num_threads(1)
    for module in IMPORTED:
        import_module(module)
    gc.collect()
    gc.freeze()  # forks share these objects, and collect without looking at them
    with tempfile.TemporaryDirectory() as place:
        second = other_lane(options, hub, Path(place) / "rows.json")
        rows, late = lane(0, options, hub)
        if os.waitpid(second, 0)[1]:
            raise SystemExit("the second lane failed")
        theirs, too_late = json.loads((Path(place) / "rows.json").read_text())
    rows = sorted([*rows, *(Row(**row) for row in theirs)], key=lambda row: row.place)
    late += too_late
    show(rows)
    killed, faults, lost = (sum(x) for x in zip(*((r.kills, r.faults, len(r.losses)) for r in rows), strict=True))
    minutes = (time.monotonic() - began) / 60
    print(f"{killed} kills, {faults} faults, {lost or 'no'} losses in {minutes:.1f} minutes")
    for name in late:
        print(f"{name}: not done, {options.minutes:g} minutes were over")
    if options.json:
        from bench.common import write_results

        write_results(options.json, "cpu", {}, [vars(row) for row in rows])
    raise SystemExit(1 if late or any(row.losses for row in rows) else 0)


if __name__ == "__main__":
    main()
