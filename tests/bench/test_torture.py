"""The short form of `make torture`: a kill, a damaged file, a full disk, a judge that lies; nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = ("kills-training", "disk-training", "damage-training", "judge")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="it mounts, forks and reads /proc")
def test_nothing_is_lost(python: str, tmp_path: Path):
    out = tmp_path / "torture.json"
    only = [part for row in ROWS for part in ("--only", row)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "bench.torture", "--short", *only, "--json", str(out)]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["losses"] for row in rows] == [[]] * len(ROWS)
    assert all(row["faults"] for row in rows)
    assert rows[0]["kills"]


@pytest.mark.skipif(sys.platform != "linux", reason="it forks and reads /proc")
def test_a_loss_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program that goes on from a file of its own without a look at it, as ours must not."""
    monkeypatch.syspath_prepend(str(ROOT))
    from random import Random

    from bench.torture.damage import _damage
    from bench.torture.machine import Load, Row

    def work() -> None:
        state = tmp_path / "runs" / "a" / "state"
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_bytes((state.read_bytes() if state.exists() else b"") + b"x")

    load, row = Load("careless", work, tmp_path / "runs", tmp_path, start=tmp_path / "start"), Row("")
    (tmp_path / "start" / "a").mkdir(parents=True)
    (tmp_path / "start" / "a" / "state").write_bytes(b"12345678")
    load.measure()
    for seed in range(8):
        load.begin()
        _damage(load, tmp_path / "runs" / "a" / "state", Random(seed), row)
    assert row.faults == len(row.losses) == 8
    assert all("a/state differs" in loss for loss in row.losses)
