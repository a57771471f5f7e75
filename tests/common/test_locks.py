"""Who works on a run or a recipe, in words."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage.cli.outcome import say_at_once
from tutelage.common.locks import holder, own_mark
from tutelage.common.planned import announce, at_work


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (own_mark(), rf"process {os.getpid()} \(since \d\d:\d\d\)"),
        (f"{os.getpid()} 0 {platform.node()}", f"process {os.getpid()}"),  # a system that does not tell
        (f"17 4711 not-{platform.node()}", f"process 17 on not-{platform.node()}"),
        ("17", "process 17"),
        ("", "another process"),
        ("17 x " + platform.node(), "process 17"),
    ],
    ids=[
        "own",
        "without a start",
        "of another host",
        "a number",
        "empty",
        "broken",
    ],  # equal in every process
)
def test_a_mark_in_words(mark: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{mark}\nmore")
    assert re.fullmatch(words, holder(tmp_path / "lock"))
    assert holder(tmp_path / "nowhere") == "another process"


def test_a_process_of_another_day_has_a_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text(own_mark())
    now = time.localtime(time.time() + 3 * 86_400)
    real = time.localtime
    monkeypatch.setattr("time.localtime", lambda *seconds: real(*seconds) if seconds else now)
    assert re.search(r"\(since \d\d \w+ \d\d:\d\d\)", holder(tmp_path / "lock"))


def test_a_second_command_says_at_once_who_runs_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(tmp_path, [{"folder": "sft", "parents": []}], "mine")
    say_at_once("mine", tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 1  # its own list is no other's
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (own,) = tmp_path.glob(".planned-*")
        mark = f"{other.pid} 0 {platform.node()}"
        (tmp_path / f".planned-{platform.node()}-{other.pid}").write_text(
            f"{mark}\n{own.read_text().partition(chr(10))[2]}"
        )
        assert at_work(tmp_path, "another recipe") == []
        say_at_once("mine", tmp_path)
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(f"mine: process {other.pid} is running it already: this command waits for what both")
        assert second.startswith("mine: loading torch")
        other.communicate(b"\n")
    assert at_work(tmp_path, "mine") == []  # it has ended
