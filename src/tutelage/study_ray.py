"""Runs as tasks of a Ray cluster, behind the part of an executor's interface that `workers.py` uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tutelage.types import TutelageError


class RayPool:
    """Submits runs to the cluster that RAY_ADDRESS names, else to one started here.

    Each run asks for `gpus` GPUs (0: one CPU alone). Ray does not repeat a task by itself: a run whose worker died is
    submitted again by `Workers`, which counts.
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
                address=os.environ.get("RAY_ADDRESS"),
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
            )
        there = ray.cluster_resources()
        if gpus and there.get("GPU", 0) < gpus:
            raise TutelageError(f"each run asks for {gpus:g} GPUs, the Ray cluster has {there.get('GPU', 0):g}")
        self.slots = max(1, int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1)))
        self.options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0}

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.ray.remote(function).options(**self.options).remote(*arguments).future()

    def shutdown(self, cancel_futures: bool = True) -> None:
        if self.started_here:
            self.ray.shutdown()
