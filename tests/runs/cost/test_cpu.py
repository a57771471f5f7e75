"""Times of runs on this machine's CPU."""

from __future__ import annotations

import pytest
import torch

from tutelage.runs.cost import cpu


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
