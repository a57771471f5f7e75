"""metrics.jsonl across stops, and progress in terminals and logs."""

from __future__ import annotations

import io
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tutelage.common.metrics_log import MetricsFile, read_metrics
from tutelage.common.progress import Progress, print_note, progress, say, tell, whole


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test moves it."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def terminal(monkeypatch: pytest.MonkeyPatch, width: int = 100, term: str = "xterm") -> io.StringIO:
    """A terminal on standard error; no fixture, since pytest puts its own there between a test and its fixtures."""
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in (("TERM", term), ("COLUMNS", str(width))):
        monkeypatch.setenv(name, value)
    return written


def plain(screen: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_outside_a_terminal_lines_are_printed_at_intervals(capsys: pytest.CaptureFixture[str], clock: list[float]):
    bar = Progress("training", 10, done=2, interval=20.0, unit="steps")
    for _ in range(4):  # 10 s each
        clock[0] += 10
        bar.advance(1, "loss 1")
    assert capsys.readouterr().err.splitlines() == [
        "training: 4 of 10 steps, loss 1; about 60 s left",
        "training: 6 of 10 steps, loss 1; about 40 s left",
    ]
    clock[0] += 1
    bar.advance(4, "loss 0")
    assert capsys.readouterr().err == "training: 10 of 10 steps, loss 0; a few seconds left\n"
    bar.advance(0, "loss 0")  # the end is told once
    assert capsys.readouterr().err == ""
    bar.close()


def test_the_time_left_is_unknown_while_nothing_is_done(capsys: pytest.CaptureFixture[str], clock: list[float]):
    with progress("rows", 24) as bar:
        clock[0] += 30
        bar.advance(0, "0% accepted")
    assert capsys.readouterr().err == "rows: 0 of 24, 0% accepted; time left not known yet\n"


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]):
    with progress("short", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_units_of_an_earlier_call_do_not_count_for_the_time_left(
    capsys: pytest.CaptureFixture[str], clock: list[float]
):
    with progress("rows", 5000) as bar:
        bar.restore(4500)
        clock[0] += 30.0
        bar.advance(15)
    assert capsys.readouterr().err == "rows: 4515 of 5000; about 16 min left\n"


@pytest.mark.parametrize(("width", "note"), [(40, False), (79, False), (80, True), (120, True)])
def test_a_bar_shows_count_and_time_left_in_every_terminal(
    width: int, note: bool, monkeypatch: pytest.MonkeyPatch, clock: list[float]
):
    screen = terminal(monkeypatch, width)
    with progress("sft_again", 30) as bar:
        clock[0] += 29
        bar.advance(29, note="loss 0.0439")
        bar.screen._bar.refresh()
    written = plain(screen)
    assert re.search(r"sft_again.* 29 of 30 .*a few seconds left", written)
    assert ("loss 0.0439" in written) == note
    assert max(map(len, written.replace("\r", "\n").splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_whole_is_a_bar_above_that_of_its_piece(width: int, monkeypatch: pytest.MonkeyPatch, clock: list[float]):
    screen = terminal(monkeypatch, width)
    with whole("mine") as work:
        for key in ("a", "b"):
            work.left.add(key, "train", 60.0)
        work.begin("a")
        with progress("sft", 4, unit="steps") as bar:
            clock[0] += 30
            bar.advance(2, "loss 0.5")
            bar.screen._bar.refresh()
            say("    asked: \x1b[2Jwhat? " + 200 * "x")
            say("sft on test took 1 s, exact_match 0.0 ± 0.0")
        clock[0] += 30
        work.end("a", "sft", "loss 0.4")
    lines = [line.rstrip() for line in plain(screen).replace("\r", "\n").splitlines() if line.strip()]
    assert max(map(len, lines)) <= width
    above, below = next((a, b) for a, b in pairwise(lines) if "2 of 4" in b)
    assert above.startswith("mine")
    assert "about 1.5 min left" in above
    assert ("loss 0.5" in below) or width < 80
    assert any(line.startswith("    asked: [2Jwhat? xx") for line in lines)  # without the control character
    assert sum("xx" in line for line in lines) == 1  # cut: a sample takes one line
    assert "sft on test took 1 s, exact_match 0.0 ± 0.0" in " ".join(lines)  # whole
    assert any(line.startswith("1/2 sft took 1 min 0 s, loss 0.4") for line in lines)


def test_the_whole_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], clock: list[float]):
    with whole("mine") as work:
        for key in ("a", "b"):
            work.left.add(key, "train", 60.0)
        work.begin("a")
        with progress("sft", 4, unit="steps") as bar:
            clock[0] += 30
            bar.advance(2, "loss 0.5")
            say("asked: what?")
        clock[0] += 30
        work.end("a", "sft", "loss 0.4")
        work.begin("b")
        work.end("b", "gkd")
    out, err = capsys.readouterr()
    assert err == "sft: 2 of 4 steps, loss 0.5; about 1.5 min left in all\n"
    assert out.splitlines() == [
        "asked: what?",
        "1 of 2 runs done: sft took 1 min 0 s, loss 0.4; about 60 s left",
        "2 of 2 runs done: gkd took 0 s",
    ]


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch, clock: list[float]):
    screen = terminal(monkeypatch, term="dumb")
    with whole("mine"), progress("sft", 2, unit="steps") as bar:
        clock[0] += 30
        bar.advance(1)
    assert screen.getvalue() == "sft: 1 of 2 steps; a few seconds left in all\n"


def test_no_color_means_no_color(monkeypatch: pytest.MonkeyPatch):
    screen = terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    with progress("sft", 2) as bar:
        bar.advance(1)
        bar.screen._bar.refresh()
    assert "1 of 2" in screen.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-9])[;m]", screen.getvalue())


def test_notes_break_between_words_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, width=30)
    print_note("scores on them may look better than they are")
    tell("scores on them may look better than they are", "sft", file=sys.stderr)
    assert screen.getvalue().splitlines() == [
        "note: scores on them may look",
        "      better than they are",
        "sft: scores on them may look",
        "    better than they are",
    ]
