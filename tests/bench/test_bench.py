"""The benchmarks run with tiny models, and count what they say they count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def run(*command):
    subprocess.run([sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)


def test_a_step_beside_trl(tmp_path):
    out = tmp_path / "step.json"
    run("bench/step.py", "--small", "--steps", "1", "--impl", "tutelage", "--new-tokens", "8", "--json", str(out))
    result = json.loads(out.read_text())
    assert "--small" in result["command"]
    assert result["versions"]["torch"]
    rows = {row["case"]: row for row in result["rows"]}
    assert set(rows) == {"data", "on-policy"}
    assert rows["data"]["ratio"] == rows["on-policy"]["ratio"] == 1.0
    assert rows["data"]["sampled_tokens_per_s"] is None
    assert rows["on-policy"]["sampled_tokens_per_s"] > 0


def test_a_step_at_the_papers_shapes(tmp_path):
    out = tmp_path / "step.json"
    options = ["--batch", "4", "--new-tokens", "6", "--steps", "1", "--impl", "tutelage"]
    run("bench/step_paper.py", "--device", "cpu", "--small", *options, "--json", str(out))
    result = json.loads(out.read_text())
    off, on = result["rows"]
    assert (off["case"], on["case"]) == ("off-policy", "on-policy")
    assert off["tokens"] == pytest.approx(off["tokens_per_s"] * off["seconds"])
    assert on["sampled_tokens_per_s"] * on["seconds"] == pytest.approx(4 * 6)
    assert off["first_loss"] > 0


def test_the_fast_path_and_the_reference_train_alike(tmp_path):
    out, figure = tmp_path / "curve.json", tmp_path / "curve.png"
    run("bench/curve.py", "--small", "--steps", "2", "--json", str(out), "--figure", str(figure))
    fast, _, reference = json.loads(out.read_text())["rows"]
    assert fast["losses"] == pytest.approx(reference["losses"], rel=1e-4)
    assert len(fast["losses"]) == 2
    assert figure.stat().st_size > 10_000


def test_sampling(tmp_path):
    out = tmp_path / "sampling.json"
    options = ["--prompts", "4", "--new-tokens", "8", "--repeats", "1", "--impl", "tutelage", "transformers"]
    run("bench/sampling.py", "--small", *options, "--json", str(out))
    ours, theirs = json.loads(out.read_text())["rows"]
    assert (ours["impl"], theirs["impl"]) == ("tutelage", "transformers")
    assert ours["tokens_per_s"] * ours["seconds"] == pytest.approx(4 * 8)
    assert ours["logprob_difference"] < 1e-4
    assert ours["over_floor"] > 1.0


def test_synthesis(tmp_path):
    out = tmp_path / "synthesis.json"
    run("bench/synthesis.py", "--small", "--json", str(out))
    stage, alone, host = json.loads(out.read_text())["rows"]
    assert stage["rows"] == host["rows"] == 8
    assert stage["sampled_tokens"] == alone["sampled_tokens"] > stage["attempts"] == host["attempts"]
    assert stage["tokens_per_s"] * stage["seconds"] == pytest.approx(stage["sampled_tokens"])
    assert stage["ratio"] == pytest.approx(stage["tokens_per_s"] / alone["tokens_per_s"])
    assert 0 < stage["seconds"] - stage["sampling_s"] < host["seconds"] + 1
    assert host["parts"].keys() >= {"setup", "prompts", "filters", "writing", "page"}
    assert sum(s for name, s in host["parts"].items() if not name.startswith("of it")) < host["seconds"] * 1.5


def test_several_ranks(tmp_path):
    out = tmp_path / "ranks.json"
    options = ["--batch", "4", "--new-tokens", "6", "--steps", "1", "--case", "on-policy"]
    run("bench/ranks.py", "--device", "cpu", "--small", *options, "--json", str(out))
    one, whole, sharded = json.loads(out.read_text())["rows"]
    assert [(r["ranks"], r["sharded"]) for r in (one, whole, sharded)] == [(1, False), (2, False), (2, True)]
    assert one["tokens"] == whole["tokens"] == sharded["tokens"]
    assert whole["first_loss"] == pytest.approx(one["first_loss"], rel=1e-4)
    assert sharded["first_loss"] == pytest.approx(one["first_loss"], rel=1e-4)
    assert one["speedup"] == 1.0
