"""Runs as tasks of a Ray cluster, behind the part of an executor's interface that `scheduler.py` uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tutelage.common.errors import TutelageError
from tutelage.runs.ranks import Share
from tutelage.runs.run import Run


class RayPool:
    """Submits runs to the cluster that RAY_ADDRESS names, else to one started here.

    A run of several ranks asks for `gpus` GPUs of one machine, any other for at most one (0: CPUs alone, one a rank).
    Ray does not repeat a task by itself: a run whose worker died is submitted again by `Workers`, which counts.
    """

    def __init__(self, gpus: float) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TutelageError("--executor ray needs Ray: pip install 'tutelage[ray]'") from error
        self.ray: Any = ray
        self.started_here = not ray.is_initialized()
        if self.started_here:
            names = ("PYTHONPATH", "TUTELAGE_CACHE", "TUTELAGE_DATA", "OMP_NUM_THREADS")
            environment = {name: os.environ[name] for name in names if name in os.environ}
            ray.init(
                address=os.environ.get("RAY_ADDRESS", "local"),  # not some cluster that happens to be here
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
            )
        there = ray.cluster_resources()
        most = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < gpus:
            raise TutelageError(
                f"each run asks for {gpus:g} GPUs, no machine of the Ray cluster has more than {most:g}"
            )
        self.gpus = gpus
        self.slots = max(1, int(there.get("GPU", 0) / min(gpus, 1) if gpus else there.get("CPU", 1)))

    def submit(
        self, function: Callable[..., Any], run: Run, debug: bool, log: bool, share: Share, *more: Any
    ) -> Future[Any]:
        gpus = self.gpus if share.ranks > 1 else min(self.gpus, 1.0)
        options = {"num_cpus": share.ranks, "num_gpus": gpus, "max_retries": 0}
        return self.ray.remote(function).options(**options).remote(run, debug, log, share, *more).future()

    def shutdown(self, cancel_futures: bool = True) -> None:
        if self.started_here:
            self.ray.shutdown()
