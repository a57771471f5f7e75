"""SIGKILL at random moments and before random writes; each chain of kills ends in the results of the unbroken run."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from bench.torture.loads import Loads
from bench.torture.machine import Load, Row, content, difference


def kills(name: str, loads: Loads, chance: Random, count: int) -> Row:
    """Kill a load `count` times, in chains: after each kill the same command goes on, until it comes to its end."""
    load, row = loads[name], Row(f"SIGKILL: {name}")
    load.begin()
    while row.kills < count:
        a_worker = name == "study" and chance.random() < 0.5
        if not (kill_a_worker(load, chance, row) if a_worker else load.kill(chance, row)):
            load.begin()
    load.finish(row)
    row.faults = row.kills
    return row


def kill_a_worker(load: Load, chance: Random, row: Row) -> bool:
    """Kill one of a study's workers, whose driver goes on to the end; returns False."""
    program = load.run()
    time.sleep(chance.uniform(0.0, load.seconds))
    workers = children(program.process)
    if workers and not program.is_over():
        os.kill(chance.choice(workers), signal.SIGKILL)
        row.kills += 1
    problem = program.ended().problem(may_fail=False) or difference(content(load.folder), load.whole)
    row.losses += [f"study, a worker killed: {problem}"] if problem else []
    return False


def children(process: int) -> list[int]:
    """Ids of a process's children."""
    try:
        with open(f"/proc/{process}/task/{process}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
