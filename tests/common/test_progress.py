"""metrics.jsonl across stops, and the progress line outside a terminal."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from tutelage.common.metrics_log import MetricsFile, read_metrics
from tutelage.common.progress import Progress, progress


def test_lines_are_read_back_and_a_new_run_starts_empty(tmp_path: Path):
    log = MetricsFile(tmp_path / "m.jsonl")
    log.write({"step": 1, "loss": 0.5, "forward_kl": None})
    assert read_metrics(log.path) == [{"step": 1, "loss": 0.5, "forward_kl": None}]  # readable while it is written
    log.close()
    MetricsFile(log.path).close()
    assert read_metrics(log.path) == []
    assert read_metrics(tmp_path / "nowhere.jsonl") == []


def test_a_resumed_run_drops_later_lines_and_a_cut_last_one(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    log = MetricsFile(path, step=2)
    log.write({"step": 3, "again": True})
    log.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_outside_a_terminal_lines_are_printed_at_intervals(capsys: pytest.CaptureFixture[str], monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    bar = Progress("training", 10, done=2, interval=20.0)
    for _ in range(4):  # 10 s each
        now[0] += 10
        bar.advance(1, "loss 1")
    assert capsys.readouterr().err.splitlines() == [
        "training: 4/10 loss 1 about 60 s left",
        "training: 6/10 loss 1 about 40 s left",
    ]
    now[0] += 1
    bar.advance(4, "loss 0")
    assert capsys.readouterr().err == "training: 10/10 loss 0 about 0 s left\n"
    bar.close()


def test_the_time_left_is_unknown_while_nothing_is_done(capsys: pytest.CaptureFixture[str], monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with progress("rows", 24) as bar:
        now[0] += 30
        bar.advance(0, "0% accepted")
    assert capsys.readouterr().err == "rows: 0/24 0% accepted time left not known yet\n"


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]):
    with progress("short", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_units_of_an_earlier_call_do_not_count_for_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with progress("rows", 5000) as bar:
        bar.restore(4500)
        now[0] = 30.0
        bar.advance(15)
    assert capsys.readouterr().err == "rows: 4515/5000  about 970 s left\n"


@pytest.mark.parametrize(("width", "note"), [(40, False), (79, False), (80, True), (120, True)])
def test_a_bar_shows_count_and_time_left_in_every_terminal(width: int, note: bool, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in (("COLUMNS", str(width)), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    with progress("sft_again (seed 0)", 30) as bar:
        bar.advance(29, note="loss 0.0439, 16 tokens/s")
        bar._bar.refresh()
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"sft_again \(seed 0\).* 29/30 .*left (-:--:--|\d:\d\d:\d\d)", written)
    assert ("loss 0.0439, 16 tokens/s" in written) == note
