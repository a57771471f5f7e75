"""Times and memory of runs here."""

from __future__ import annotations

import pytest
from recipes_fixture import Workshop

from tutelage.recipe import load_recipe
from tutelage.runs.cost.facts import machine
from tutelage.start import estimate as estimating
from tutelage.start.estimate import Here, estimate, look_at_machine, runs_of


def test_a_slower_machine_takes_longer_and_known_gpus_are_the_cost_models(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workshop.write(stages__2__models=["sft", "gkd"])
    runs = runs_of(load_recipe(file), workshop.folder, workshop.runs, "cpu")
    assert sorted(run.stage for run in runs) == ["gkd", "gkd on test", "sft", "sft on test"]
    here = look_at_machine()
    monkeypatch.setattr(estimating, "_cpu_rate", lambda: 1e9)
    slow = estimate(runs, here)
    monkeypatch.setattr(estimating, "_cpu_rate", lambda: 1e12)
    fast = estimate(runs, here)
    assert slow.hours is not None
    assert fast.hours is not None
    assert slow.hours > fast.hours > 4 * 8 / 3600  # each of four runs takes 8 s to load and save
    assert slow.misfits == ()
    unknown = estimate(runs, Here("cpu", None, ""))
    assert (unknown.hours, unknown.gib) == (None, None)
    on_gpu = estimate(runs, Here("cuda", machine("H100"), ""))
    assert on_gpu.gib is not None
    assert 3 < on_gpu.gib < 79
