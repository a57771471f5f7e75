"""`bench/evaluation.py` on a tiny evaluation."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tiny_benchmarks import write_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_an_evaluation_beside_its_ceiling(python: str, tiny_models: Path, tmp_path: Path):
    write_data(tmp_path / "data")
    model = ["--model", str(tiny_models / "student"), "--data-dir", str(tmp_path / "data"), "--batch-size", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> None:
        subprocess.run([python, *command, *model], cwd=ROOT, env=environment, check=True, capture_output=True)

    scores, out = tmp_path / "scores", tmp_path / "evaluation.json"
    run("-m", "tutelage", "evaluate", "--tasks", "bbh,arc_challenge", "--out", str(scores))
    run("-m", "bench.evaluation", str(scores), "--json", str(out))
    arc, bbh = json.loads(out.read_text())["rows"]
    assert (arc["case"], bbh["case"]) == ("arc_challenge", "bbh")
    speed = json.loads((scores / "bbh" / "result.json").read_text())["speed"]
    assert bbh["tokens_per_s"] == speed["new_tokens_per_s"]
    assert bbh["ratio"] == pytest.approx(bbh["tokens_per_s"] / bbh["ceiling_tokens_per_s"])
    assert bbh["mean_reply"] * bbh["examples"] == pytest.approx(speed["new_tokens"])
    assert 0.05 < bbh["shared"] < 1.0
    assert arc["shared"] < bbh["shared"]
