"""The loss benchmark runs, and the errors that it reports for the project's own paths are small."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_tiny_run_writes_rows_with_small_errors(python, tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed (pip install 'tutelage[dev]' on Linux)")
    out = tmp_path / "loss.json"
    command = [python, "-m", "bench.loss", "--device", "cpu", "--tokens", "4", "--repeats", "1", "--json", str(out)]
    command += ["--impl", "tutelage", "tutelage-torch", "--case", "jsd 0.5", "cross_entropy"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    result = json.loads(out.read_text())
    assert result["ceilings"]["flops"] > 0
    assert [(row["impl"], row["case"]) for row in result["rows"]] == [
        ("tutelage", "jsd 0.5"),
        ("tutelage-torch", "jsd 0.5"),
        ("tutelage", "cross_entropy"),
        ("tutelage-torch", "cross_entropy"),
    ]
    for row in result["rows"]:
        assert row["tokens_per_s"] * row["seconds"] == pytest.approx(4)
        for errors in row["errors"].values():
            assert errors["loss"] < 1e-4
            assert errors["grad_hidden"] < 1e-2
            assert errors["grad_weight"] < 1e-2
