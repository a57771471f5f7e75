"""Files that are cut, emptied, or have one bit flipped: found and made again, or refused by name; never used."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from bench.torture.loads import SCORES, Loads
from bench.torture.machine import Ended, Load, Row, at_write, content, die, difference, void

# What is damaged in a stopped run, by load, and in a finished one.
STOPPED = {
    "training": [
        *("checkpoints/checkpoint-*/*", "checkpoints/pending-*/*"),
        *("metrics.jsonl", "samples.jsonl", "config.json", "data.json"),
    ],
    "seqkd": ["answers.jsonl", "checkpoints/checkpoint-*/*", "metrics.jsonl", "result.json"],
    "synthesis": ["accepted/*", "rejected/*", "metrics.jsonl"],
    "evaluation": ["*/responses.jsonl", "responses.jsonl", "settings.json", "speed.json"],
}
FINISHED = ["result.json", "config.json", "data.json", "metrics.jsonl", "examples.jsonl", "answers.jsonl",
            "model/*", "accepted/*", "rejected/*", "checksums.json"]  # fmt: skip


def cut(path: Path, chance: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))] if content else b"")


def cut_at_line(path: Path, chance: Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: chance.randrange(len(lines))] if lines else lines))


def emptied(path: Path, chance: Random) -> None:
    path.write_bytes(b"")


def flip(path: Path, chance: Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


WAYS: Sequence[Callable[[Path, Random], None]] = (cut, cut_at_line, emptied, flip, flip, flip)


def stopped(name: str, loads: Loads, chance: Random, count: int) -> Row:
    """A load is killed, one of the files that its resume reads is damaged, and the same command goes on."""
    load, row = loads[name], Row(f"damage to a stopped run: {name}")
    patterns = STOPPED[name]
    tries = 0
    while row.faults < count and tries < 4 * count:
        tries += 1
        load.begin()
        number = chance.randint(load.writes // 3, load.writes)
        load.run(lambda number=number: void(at_write(load.folder, number, die))).ended()
        pattern = patterns[row.faults % len(patterns)] if tries <= 2 * count else chance.choice(patterns)
        found = sorted(path for path in load.folder.glob(f"*/{pattern}") if path.is_file())
        if not found:
            continue
        _damage(load, chance.choice(found), chance, row)
    return row


def _damage(load: Load, path: Path, chance: Random, row: Row) -> None:
    """Damage a file and run the load. A file of a finished run may stay damaged if nothing reads it: all others are
    then the unbroken ones."""
    way, before, name = chance.choice(WAYS), path.read_bytes(), path.relative_to(load.folder).as_posix()
    done = (load.folder / name.split("/")[0] / "result.json").is_file()
    way(path, chance)
    damaged = path.read_bytes()
    if damaged == before:
        return
    row.faults += 1
    problem = _goes_on(load)
    if problem is None:
        unread = done and path.is_file() and path.read_bytes() == damaged
        found = content_without(load.folder, name) if unread else content(load.folder)
        problem = difference(found, {key: value for key, value in load.whole.items() if not unread or key != name})
    row.losses += [f"{load.name}, {name} {way.__name__}: {problem}"] if problem else []


def _goes_on(load: Load) -> str | None:
    """Run a load to its end, and where it refuses a file, do what it advises and run it again; a problem, if any."""
    for _ in range(3):
        ended = load.run().ended()
        problem = ended.problem(may_fail=True)
        if problem or ended.code == 0:
            return problem
        problem = _take_advice(ended, load.folder)
        if problem:
            return problem
    return f"its advice does not help: {ended.line}"


def _take_advice(ended: Ended, folder: Path) -> str | None:
    """Remove the folder or file that the error tells to remove; a problem if it tells none."""
    told = re.search(rf"(?:remove|delete) (?:the folder )?({re.escape(str(folder))}[^\s,;:()]*)", ended.line)
    named = re.search(rf"{re.escape(str(folder))}[^\s,;:()]*", ended.line)
    if told is None and (named is None or "remove" not in ended.line):
        return f"no file is named, or nothing is advised: {ended.line}"
    place = Path((told or named).group(1 if told else 0))  # type: ignore[union-attr]
    if place == folder:
        return f"it wants all runs removed: {ended.line}"
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    return None


def finished(loads: Loads, chance: Random, count: int) -> Row:
    """A file of a finished run is damaged; a further stage builds on the run, and the report reads it."""
    row = Row("damage to finished runs")
    while row.faults < count:
        name = ("training", "seqkd", "synthesis")[row.faults % 3]
        load = more(name, loads)
        load.begin()
        pattern = chance.choice(FINISHED)
        found = sorted(path for path in load.folder.glob(f"*-s0-*/{pattern}") if path.is_file())
        if found:
            _damage(load, chance.choice(found), chance, row)
    return row


def content_without(folder: Path, name: str) -> dict[str, object]:
    """`content`, without one file, which may be unreadable."""
    kept = folder.parent / "aside"
    (folder / name).rename(kept)
    try:
        return content(folder)
    finally:
        kept.rename(folder / name)


_more: dict[str, Load] = {}


def more(name: str, loads: Loads) -> Load:
    """A load that begins with the finished runs of `name` and has one more stage, which trains on what they made, and
    one more evaluation."""
    if name in _more:
        return _more[name]
    first = loads[name]
    first.begin()
    first.run().ended()
    start = loads.folder / f"done-{name}"
    shutil.copytree(first.folder, start)
    for report in start.glob("*-report"):
        shutil.rmtree(report)
    import yaml

    recipe = yaml.safe_load((loads.folder / f"{name}.yaml").read_text())
    last = [stage["name"] for stage in recipe["stages"] if stage["kind"] in ("sft", "distill", "seqkd")][-1]
    data = "new" if name == "synthesis" else "train"
    seqkd = [stage | {"name": "again", "student": last} for stage in recipe["stages"] if stage["kind"] == "seqkd"]
    again = [*seqkd, {"name": "again", "kind": "sft", "data": data, "student": last, "training": {"epochs": 1}}][0]
    stages = [*recipe["stages"][:-1], again, SCORES | {"models": [last, "again"]}]
    file = loads.write(f"more-{name}", stages)
    load = _more[name] = Load(f"more-{name}", loads.command(file), loads.runs, loads.folder, start)
    load.measure()
    return load
