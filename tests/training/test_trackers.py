"""A real tracker gets the numbers of metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import read_metrics
from tutelage.training.trainer import Trainer

LENGTHS = (9, 6, 60, 7, 30, 5, 12)


@pytest.mark.slow
def test_tensorboard_gets_every_number(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(jobs.sft(tmp_path, LENGTHS, max_steps=2, trackers=["tensorboard"])).run()
    events = EventAccumulator(str(tmp_path / "tutelage")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("loss")]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert logged == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines]
    assert len(logged) == 2


def test_a_tracker_that_is_not_installed_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(TutelageError, match=r"training\.trackers: pip install tensorboard"):
        Trainer(jobs.sft(tmp_path, trackers=["tensorboard"])).run()
