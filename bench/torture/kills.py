"""SIGKILL at random moments and before random writes; each chain of kills ends in the results of the unbroken run."""

from __future__ import annotations

import os
import signal
from random import Random

from bench.torture.loads import Loads
from bench.torture.machine import Row


def kills(name: str, loads: Loads, chance: Random, count: int) -> Row:
    """Kill a load `count` times, in chains: after each kill the same command goes on, until it comes to its end."""
    load, row = loads[name], Row(f"SIGKILL: {name}")
    load.begin()
    while row.kills < count:
        killed = kill_a_worker(loads, chance, row) if name == "study" and chance.random() < 0.5 else load.kill(chance, row)
        if not killed:
            load.begin()
    load.finish(row)
    row.faults = row.kills
    return row


def kill_a_worker(loads: Loads, chance: Random, row: Row) -> bool:
    """Kill one of the four workers of the study, whose driver goes on; returns whether the driver is to be called
    again."""
    import time

    load = loads["study"]
    program = load.run()
    time.sleep(chance.uniform(0.0, load.seconds))
    workers = children(program.process)
    if workers and not program.is_over():
        os.kill(chance.choice(workers), signal.SIGKILL)
        row.kills += 1
    ended = program.ended()
    problem = ended.problem(may_fail=False)
    if problem:
        row.losses.append(f"study, a worker killed: {problem}")
    return False


def children(process: int) -> list[int]:
    """Ids of a process's children."""
    try:
        with open(f"/proc/{process}/task/{process}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
