"""A GGUF file is converted once, also by processes that start together."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tutelage.models.checkpoints import gguf


def test_of_those_that_start_together_one_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second conversion would replace the folder while the first one's is read. Threads stand for processes: the lock
    is that of an open folder, and each opens its own."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    made = []

    def convert(_: Path, target: Path) -> None:
        made.append(target)
        time.sleep(0.05)
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(gguf, "_convert", convert)
    with ThreadPoolExecutor(3) as pool:
        folders = {folder for folder, _ in pool.map(gguf.converted, [file] * 3)}
    assert len(made) == 1
    assert folders == {str(made[0])}
