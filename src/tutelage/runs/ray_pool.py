"""Runs as tasks of a Ray cluster, with the part of an executor's interface that `scheduler.py` uses."""

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

    A run of several ranks gets `gpus` GPUs of one machine, any other at most one; with 0 GPUs, one CPU per rank. Ray
    does not repeat a task: the scheduler submits a run whose worker died again, and counts. Raises TutelageError when
    Ray is not installed, or when no machine of the cluster has as many GPUs.
    """

    def __init__(self, gpus: float) -> None:
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
        most = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < gpus:
            raise TutelageError(
                f"--gpus-per-run {gpus:g}: no machine of the Ray cluster has more than {most:g} GPUs; ask for fewer"
            )
        self.gpus = gpus
        self.slots = max(1, int(total.get("GPU", 0) / min(gpus, 1) if gpus else total.get("CPU", 1)))

    def submit(
        self, function: Callable[..., Any], run: Run, debug: bool, log: bool, share: Share, *more: Any
    ) -> Future[Any]:
        """Start a run as a task; the future gives what `function` returns."""
        gpus = self.gpus if share.ranks > 1 else min(self.gpus, 1.0)
        options = {"num_cpus": share.ranks, "num_gpus": gpus, "max_retries": 0}
        return self.ray.remote(function).options(**options).remote(run, debug, log, share, *more).future()

    def shutdown(self, cancel_futures: bool = True) -> None:
        """End the cluster if it was started here."""
        if self.started_here:
            self.ray.shutdown()
