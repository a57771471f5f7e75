"""Times and memory of runs here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
from recipes_fixture import Workshop

from tutelage.models.load import load_template
from tutelage.recipe import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.cost.cpu import COMMAND, START, Pace
from tutelage.runs.cost.facts import machine
from tutelage.runs.preflight.machine import Here, look_at_machine
from tutelage.runs.run import Run
from tutelage.start import estimate as estimating
from tutelage.start.estimate import estimate, runs_of


def test_a_slower_machine_takes_longer_and_known_gpus_are_the_cost_models(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workshop.write(stages__2__models=["sft", "gkd"])
    runs = runs_of(load_recipe(file), workshop.folder, workshop.runs, "cpu")
    assert sorted(run.stage for run in runs) == ["gkd", "gkd on test", "sft", "sft on test"]
    here = look_at_machine()
    monkeypatch.setattr(estimating, "measured_pace", lambda: Pace(1e9))
    slow = estimate(runs, here)
    monkeypatch.setattr(estimating, "measured_pace", lambda: Pace(1e12))
    fast = estimate(runs, here)
    monkeypatch.setattr(estimating, "measured_pace", lambda: Pace(1e12, 2.0))
    beside = estimate(runs, here)
    assert slow.hours is not None
    assert fast.hours is not None
    assert slow.hours > fast.hours > 4 * START / 3600  # each of four runs loads and saves
    assert (beside.hours, beside.busy) == (pytest.approx(2 * fast.hours), 2.0)
    assert slow.misfits == ()
    assert sorted(slow.stages) == ["evaluations", "gkd", "sft"]
    assert 3600 * (slow.hours - sum(slow.stages.values())) == pytest.approx(COMMAND)
    assert slow.stages["gkd"] > slow.stages["sft"] > START / 3600
    weights = sum(file.stat().st_size for file in (workshop.models / "student").glob("*.safetensors"))
    # Two trained models, and of one run at a time two checkpoints with two moments each.
    assert slow.disk * 2**30 == pytest.approx((2 + 6) * weights, rel=0.2)
    unknown = estimate(runs, Here("cpu", None, ""))
    assert (unknown.hours, unknown.gib) == (None, None)
    on_gpu = estimate(runs, Here("cuda", machine("H100"), ""))
    assert on_gpu.gib is not None
    assert 3 < on_gpu.gib < 79


def test_a_run_begins_with_the_time_that_was_estimated(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Begun(Exception):
        pass

    def scheduler(*_: object, seconds: Callable[[Run], float], **__: object) -> None:
        raise Begun(sum(map(seconds, runs)))

    running = import_module("tutelage.runs.run_recipe")
    config = load_recipe(workshop.write(stages__2__models=["sft", "gkd"]))
    runs = runs_of(config, workshop.folder, workshop.runs, "cpu")
    for module in (estimating, running):
        monkeypatch.setattr(module, "measured_pace", lambda: Pace(3e10, 1.7))
    monkeypatch.setattr(running, "Scheduler", scheduler)
    with pytest.raises(Begun) as begun:
        running.run_recipe(config, workshop.folder, workshop.runs)
    template, _ = load_template(ModelConfig(path=str(workshop.models / "student")))
    hours = estimate(runs, look_at_machine(), template).hours
    assert hours is not None
    # Another memory may have room for other batches of answers. What a command does beside its runs is mostly over.
    assert begun.value.args[0] == pytest.approx(3600 * hours - 1.7 * COMMAND, rel=1e-3)
