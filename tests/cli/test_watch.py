"""`tutelage watch` and `tutelage run --web`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import watched
from recipes_fixture import Workshop
from waiting import HANG

from tutelage.cli.main import main
from tutelage.cli.watch import page_of
from tutelage.runs import scheduler


def news_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url + "news", b"{}"), timeout=HANG) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_serves_a_folder_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    watched.steps(watched.begin(tmp_path, "gkd"), 1, 3)
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "tutelage", "watch", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command,
        # Where this suite runs in the background of a script, SIGINT is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = re.fullmatch(r"Watch: (http://127\.0\.0\.1:\d+/)\n", process.stdout.readline())
        assert url is not None
        (run,) = news_of(url[1])["runs"]
        assert (run["state"], run["step"]) == ("running", 3)
        process.send_signal(number)
        assert process.communicate(timeout=HANG) == ("", "tutelage: stopped\n")
    assert process.returncode == 128 + number
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["watch", str(tmp_path / "nowhere")])
    assert capsys.readouterr().err == (
        f"tutelage: {tmp_path / 'nowhere'} is no folder: give the folder of runs, as --runs of `tutelage run` does\n"
    )


def test_listening_to_the_network_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with page_of(tmp_path, port=0):
        assert capsys.readouterr().err == ""
    with page_of(tmp_path, "0.0.0.0", 0):
        out, err = capsys.readouterr()
    assert err.startswith("warning: whoever reaches 0.0.0.0:")
    assert out.startswith("Watch: http://127.0.0.1:")


@pytest.mark.slow
def test_run_web_shows_what_runs_and_what_is_queued(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    attempt, seen, url = scheduler.attempt, [], ""

    def asking(run: Any, *more: Any) -> Any:
        nonlocal url
        url = url or re.findall(r"Watch: (\S+)", capsys.readouterr().out)[0]
        seen.append({row["stage"]: row["state"] for row in news_of(url)["runs"]})
        return attempt(run, *more)

    monkeypatch.setattr(scheduler, "attempt", asking)
    monkeypatch.setattr("tutelage.watch.scan.FRESH_SECONDS", -1.0)
    file = workshop.write(stages__2__models=["sft"])
    main(["run", str(file), "--web", "--runs", str(workshop.runs)])
    assert seen[0] == {"sft": "queued", "gkd": "queued", "sft on test": "queued"}
    assert seen[-1]["sft"] == "done"
    assert list(seen[-1].values()).count("queued") == 1
    assert list(workshop.runs.glob("gkd-s0-*/samples.jsonl"))
    assert not list(workshop.runs.glob(".planned-*"))
    with pytest.raises(OSError, match="refused"):
        news_of(url)
