"""Training runs over the machines of a Ray cluster: where their ranks are placed, and the weights of one rank."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from ranks_recipe import planned
from recipes_fixture import Workshop
from safetensors.torch import load_file

from tutelage.common.errors import TutelageError
from tutelage.runs.do_run import do_run
from tutelage.runs.hosts.ray_pool import RayPool, hosts_for
from tutelage.runs.ranks import Share
from tutelage.runs.store import Store
from tutelage.runs.worker import attempt


@pytest.mark.parametrize(
    ("ranks", "rooms", "hosts"),
    [(8, [8, 8], 1), (16, [8, 8], 2), (16, [8, 4, 8], 2), (12, [4, 8, 4, 4], 3), (9, [8, 8], 0), (16, [8], 0)],
)
def test_the_fewest_machines_with_equal_parts(ranks: int, rooms: list[int], hosts: int):
    assert hosts_for(ranks, rooms) == hosts


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'tutelage[ray]'")
def test_two_machines_of_a_cluster_end_as_one_rank(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run, single = (planned(workshop, workshop.folder / root, stages__0__training__max_steps=4) for root in "ab")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with pytest.raises(TutelageError, match="no machine of the Ray cluster has more than 1 CPUs"):
            RayPool(0.0, 3)
        pool = RayPool(0.0, 2)
        assert pool.hosts == 2
        with pytest.raises(TutelageError, match="a shared folder instead of a URL"):
            pool.submit(attempt, run, False, True, Share(ranks=2), Store.__new__(Store))
        assert pool.submit(attempt, run, False, True, Share(ranks=2)).result(timeout=120) is None
        pool.ray.shutdown()
    finally:
        cluster.shutdown()
    assert (run.folder / "log-1.txt").is_file()
    do_run(single)
    weights, expected = (load_file(Path(one.folder) / "model" / "model.safetensors") for one in (run, single))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-5)
