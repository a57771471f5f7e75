"""What a training says of itself at its end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.common.metrics_log import read_metrics
from tutelage.common.run_folder import METRICS
from tutelage.runs.stages import train


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            [0.0, 0.94, *[1.0] * 38],
            "in the last 5 steps 100% of them ran to sampling.max_new_tokens (0% in the first step)",
        ),
        ([0.0, 0.77, *[0.4] * 100], None),
        ([1.0] * 4, None),  # too few steps to tell
        ([None] * 40, None),  # nothing was sampled
        ([1.0] * 100, "in the last 10 steps 100% of them"),
        ([1.0, *[None] * 9, 0.8, 0.9, 0.9, 1.0, 1.0], "in the last 5 steps 92% of them"),
    ],
)
def test_a_student_that_loses_its_ends_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: list[float | None], said: str | None
):
    lines = [{"step": n, "sampled_cut": share} for n, share in enumerate(shares, start=1)]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run: Any = SimpleNamespace(folder=tmp_path, stage="gkd", seed=2)
    assert len(read_metrics(tmp_path / METRICS)) == len(shares)
    found = train._endless_replies(run)
    assert found is None if said is None else found is not None and said in found and found.startswith("gkd (seed 2)")
