"""Runs as tasks of a Ray cluster, with the part of an executor's interface that `scheduler.py` uses."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.runs.ranks import Share, do_in_processes
from tutelage.runs.run import Run, gpus_of


class RayPool:
    """Submits runs to the cluster that RAY_ADDRESS names, else to one started here.

    `gpus`: GPUs of a training run, one per rank; any other run gets as many as hold its models, at most one if there
    are fewer than 1; with 0, one CPU per rank. `ranks`: of a training run. Where no machine has room for all ranks,
    they get a placement group: equally many on each of the fewest machines, whose folder of runs must be one.

    Ray does not repeat a task: the scheduler submits a run whose worker died again, and counts. Raises TutelageError
    when Ray is not installed, or when the cluster has no room for a training run.
    """

    def __init__(self, gpus: float, ranks: int = 1) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TutelageError("--executor ray needs Ray: pip install 'tutelage[ray]'") from error
        self.ray: Any = ray
        self.started_here = not ray.is_initialized()
        if self.started_here:
            names = ("PYTHONPATH", "TUTELAGE_CACHE", "TUTELAGE_DATA", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
            environment = {name: os.environ[name] for name in names if name in os.environ}
            ray.init(
                address=os.environ.get("RAY_ADDRESS", "local"),  # not a cluster that happens to run here
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
            )
        total = ray.cluster_resources()
        kind = "GPU" if gpus else "CPU"
        rooms = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
        self.gpus = gpus
        self.hosts = hosts_for(ranks if ranks > 1 else 1 if gpus else 0, rooms)
        if self.hosts == 0:
            raise TutelageError(
                f"--gpus-per-run {ranks}: no machine of the Ray cluster has more than {max(rooms, default=0)} {kind}s, "
                "and no several ones have room for equal parts of that; ask for fewer"
            )
        self.slots = max(1, int(total.get("GPU", 0) / min(gpus, 1) if gpus else total.get("CPU", 1)))

    def submit(
        self, function: Callable[..., Any], run: Run, debug: bool, log: bool, share: Share, store: Any = None
    ) -> Future[Any]:
        """Start a run as a task; the future gives what `function` returns."""
        if share.ranks > 1 and self.hosts > 1:
            return self._over_hosts(function, run, debug, log, share, store)
        gpus = gpus_of(run, share.ranks) if self.gpus >= 1 else self.gpus
        options = {"num_cpus": share.ranks, "num_gpus": gpus, "max_retries": 0}
        return self.ray.remote(function).options(**options).remote(run, debug, log, share, store).future()

    def _over_hosts(
        self, function: Callable[..., Any], run: Run, debug: bool, log: bool, share: Share, store: Any
    ) -> Future[Any]:
        """Start a run on several machines: `function` on the first, and on each other its part of the ranks."""
        if store is not None:
            raise TutelageError(
                f"{run.stage}: its ranks are on {self.hosts} machines, which need one folder of runs: give --runs a "
                "shared folder instead of a URL"
            )
        outcome: Future[Any] = Future()
        share = replace(share, hosts=self.hosts)
        arguments = (outcome, function, (run, debug, log), share)
        threading.Thread(target=self._watch, args=arguments, daemon=True).start()
        return outcome

    def _watch(self, outcome: Future[Any], function: Callable[..., Any], given: tuple[Any, ...], share: Share) -> None:
        """Place the tasks and wait for the first; when another fails, all are ended."""
        from ray.util.placement_group import (  # pyright: ignore[reportMissingImports]
            placement_group,
            remove_placement_group,
        )
        from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
            PlacementGroupSchedulingStrategy,
        )

        each, ray = share.ranks // share.hosts, self.ray
        bundle = {"CPU": float(each)} | ({"GPU": float(each)} if self.gpus else {})
        group, tasks = placement_group([bundle] * share.hosts, strategy="STRICT_SPREAD"), []

        def start(work: Callable[..., Any], host: int, cpus: int, *arguments: Any) -> Any:
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=host)
            options = {"num_cpus": cpus, "num_gpus": each if self.gpus and cpus else 0, "max_retries": 0}
            return ray.remote(work).options(scheduling_strategy=place, **options).remote(*arguments)

        try:
            ray.get(group.ready())
            address = ray.get(start(_meeting_place, 0, 0))
            parts = [replace(share, host=host, address=address) for host in range(share.hosts)]
            tasks = [start(function, 0, each, *given, parts[0])]
            tasks += [start(_help, part.host, each, given[0], part) for part in parts[1:]]
            waiting = list(tasks)
            while tasks[0] in waiting:
                (ended,), waiting = ray.wait(waiting, num_returns=1)
                ray.get(ended)  # raises what a helper raised
            outcome.set_result(ray.get(tasks[0]))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            for task in tasks:
                ray.cancel(task, force=True)
            remove_placement_group(group)

    def shutdown(self, cancel_futures: bool = True) -> None:
        """End the cluster if it was started here."""
        if self.started_here:
            self.ray.shutdown()


def hosts_for(ranks: int, rooms: list[int]) -> int:
    """The fewest machines that have room for equal parts of so many ranks; 0 if there are none. `rooms`: per machine,
    how many ranks fit."""
    for hosts in range(1, len(rooms) + 1):
        if ranks % hosts == 0 and sum(room >= ranks // hosts for room in rooms) >= hosts:
            return hosts
    return 0


def _meeting_place() -> tuple[str, int]:
    """This machine's address in the cluster, and a free port."""
    import ray.util  # pyright: ignore[reportMissingImports]

    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _help(run: Run, share: Share) -> None:
    """The part of a training run that a further machine does. Its folder is the first machine's."""
    run.folder.mkdir(parents=True, exist_ok=True)
    do_in_processes(run, share, run.folder / f"log-{share.host}.txt")
