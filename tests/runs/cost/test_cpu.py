"""Times of runs on this machine's CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cost_runs import B1, W1, model_of, run_of

from tutelage.recipe.sections import TrainingConfig
from tutelage.runs.cost import cpu
from tutelage.runs.kinds import cost_of


@pytest.mark.parametrize(("share", "busy"), [(1.0, 1.0), (0.5, 2.0)])
def test_a_pace_is_per_second_of_cpu_time_and_other_programs_make_it_busy(
    share: float, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads, of which each product takes 10 ms of CPU time; of the wall time they have `share`."""
    computed = 0.0

    def product(*_: object) -> None:
        nonlocal computed
        computed += 0.02

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("time.process_time", lambda: computed)
    monkeypatch.setattr("time.perf_counter", lambda: computed / 2 / share)
    found = cpu.measured_pace.__wrapped__(0.5, 100)
    assert found.rate == pytest.approx(2 * 100**3 / 0.01)
    assert found.busy == pytest.approx(busy)


@pytest.mark.parametrize(("training", "steps"), [({}, 50), ({"max_steps": 7}, 7), ({"max_steps": 500}, 500)])
def test_adamw_moves_the_weights_once_per_step(training: dict[str, int], steps: int) -> None:
    run = run_of("sft", TrainingConfig(batch_size=40, epochs=2, **training), student=B1)  # 1,000 rows
    model = model_of("H100")
    cost = replace(cost_of(run, model), flops=0.0, sampled=0.0)  # type: ignore[type-var]
    seconds = cpu.cpu_seconds(run, cost, model, cpu.Pace(1e9))
    assert seconds == pytest.approx(cpu.START + steps * W1 * cpu.ADAM_BYTES / cpu.BANDWIDTH)
