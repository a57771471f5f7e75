"""The benchmarks run with tiny models, and the numbers that they write agree with one another."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(python: str, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run `python -m bench.MODULE OPTIONS --json FILE`; returns the rows of the file."""

    def run(module: str, *options: str) -> list[dict[str, Any]]:
        out = tmp_path / "out.json"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        command = [python, "-m", f"bench.{module}", *options, "--json", str(out)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        result = json.loads(out.read_text())
        assert result["command"].startswith(f"python -m bench.{module} ")
        assert result["versions"]["torch"]
        return result["rows"]

    return run


@pytest.mark.long
def test_a_step_beside_trl(bench: Callable[..., list[dict[str, Any]]]):
    options = ["--steps", "1", "--impl", "tutelage", "--new-tokens", "8", "--threads", "1"]
    rows = {row["case"]: row for row in bench("step.smollm2", "--small", *options)}
    assert set(rows) == {"data", "on-policy"}
    assert rows["data"]["ratio"] == rows["on-policy"]["ratio"] == 1.0
    assert rows["data"]["sampled_tokens_per_s"] is None
    assert rows["on-policy"]["sampled_tokens_per_s"] > 0


@pytest.mark.long
def test_a_step_at_the_papers_shapes(bench: Callable[..., list[dict[str, Any]]]):
    options = ["--batch", "4", "--new-tokens", "6", "--steps", "1", "--impl", "tutelage"]
    off, on = bench("step.paper", "--device", "cpu", "--small", *options)
    assert (off["case"], on["case"]) == ("off-policy", "on-policy")
    assert off["tokens"] == pytest.approx(off["tokens_per_s"] * off["seconds"])
    assert on["sampled_tokens_per_s"] * on["seconds"] == pytest.approx(4 * 6)
    assert off["first_loss"] > 0
    assert (off["student"], off["precision"], off["weights"], off["compile"]) == ("1b", "float32", "float32", "off")


@pytest.mark.long
def test_a_step_in_bfloat16_and_where_its_time_goes(bench: Callable[..., list[dict[str, Any]]], tmp_path: Path):
    options = ["--device", "cpu", "--small", "--batch", "4", "--new-tokens", "6", "--steps", "1", "--impl", "tutelage"]
    more = ["--compute", "bfloat16", "--case", "mixed", "--profile", str(tmp_path / "kernels")]
    (row,) = bench("step.paper", *options, *more)
    assert (row["case"], row["precision"], row["weights"]) == ("mixed", "bfloat16", "float32")
    found = json.loads((tmp_path / "kernels-tutelage-mixed.json").read_text())
    assert sum(one["share"] for one in found["classes"].values()) == pytest.approx(1.0)
    assert found["classes"]["matrix products"]["launches"] > 20
    assert "aten::mm" in (tmp_path / "kernels-tutelage-mixed.txt").read_text()


def test_a_70b_teacher_is_made_layer_by_layer(bench: Callable[..., list[dict[str, Any]]]):
    pytest.importorskip("torchao", reason="torchao is not installed: pip install 'tutelage[quant]'")
    options = ["--device", "cpu", "--small", "--batch", "4", "--new-tokens", "6", "--steps", "1", "--impl", "tutelage"]
    shapes = ["--student", "3b", "--teacher", "70b", "--teacher-precision", "int8", "--case", "off-policy"]
    (row,) = bench("step.paper", *options, *shapes)
    assert (row["student"], row["teacher"], row["precision"]) == ("3b", "70b", "float32, teacher int8")
    assert row["first_loss"] > 0


def test_an_adapter_beside_a_quantised_teacher(bench: Callable[..., list[dict[str, Any]]]):
    for package in ("peft", "torchao", "bitsandbytes"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'tutelage[lora,quant]'")
    options = ["--device", "cpu", "--small", "--batch", "4", "--new-tokens", "6", "--steps", "1", "--impl", "tutelage"]
    adapter = ["--lora", "4", "--student-base", "nf4", "--checkpointing"]
    off, on = bench("step.paper", *options, *adapter, "--teacher-precision", "int8")
    assert (off["precision"], off["weights"]) == ("float32, teacher int8", "float32 adapter of rank 4 on nf4")
    assert off["first_loss"] > 0
    assert on["sampled_tokens_per_s"] * on["seconds"] == pytest.approx(4 * 6)
    (same,) = bench("step.paper", *options, *adapter, "--shared-base", "--case", "off-policy")
    assert same["precision"] == "float32, teacher nf4"
    assert same["first_loss"] == 0  # the adapter is new, so student and teacher are one


def test_teachers_elsewhere(bench: Callable[..., list[dict[str, Any]]]):
    options = ["--batch", "4", "--new-tokens", "6", "--steps", "1", "--micro-batch", "64"]
    rows = {(row["teacher"], row["case"]): row for row in bench("teachers", "--device", "cpu", "--small", *options)}
    assert len(rows) == 6
    for case in ("off-policy", "mixed"):
        losses = [rows[kind, case]["first_loss"] for kind in ("local", "served", "cached")]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
        assert rows["local", case]["ratio"] == 1.0
    assert rows["cached", "off-policy"]["gib"] > 0


def test_what_a_teachers_precision_costs(bench: Callable[..., list[dict[str, Any]]]):
    exact, half = bench("teacher_precision", "--device", "cpu", "--small", "--count", "1", "--teacher", "bfloat16")
    assert (exact["impl"], exact["kl"], exact["loss_difference"]) == ("float32", 0.0, 0.0)
    assert 0 < half["kl"] < 1e-4
    assert half["loss"] == pytest.approx(exact["loss"], rel=0.01)


def test_the_fast_path_and_the_reference_train_alike(bench: Callable[..., list[dict[str, Any]]], tmp_path: Path):
    figure = tmp_path / "curve.png"
    fast, _, reference = bench("curve", "--small", "--steps", "2", "--figure", str(figure))
    assert fast["losses"] == pytest.approx(reference["losses"], rel=1e-4)
    assert len(fast["losses"]) == 2
    assert figure.stat().st_size > 10_000


def test_sampling(bench: Callable[..., list[dict[str, Any]]]):
    options = ["--prompts", "4", "--new-tokens", "8", "--repeats", "1", "--threads", "1"]
    ours, theirs = bench("sampling", "--small", *options, "--impl", "tutelage", "transformers")
    assert (ours["impl"], theirs["impl"]) == ("tutelage", "transformers")
    assert ours["tokens_per_s"] * ours["seconds"] == pytest.approx(4 * 8)
    assert ours["logprob_difference"] < 1e-4
    assert ours["over_floor"] > 1.0


def test_synthesis(bench: Callable[..., list[dict[str, Any]]]):
    stage, alone, host = bench("synthesis", "--small")
    assert stage["rows"] == host["rows"] == 8
    assert stage["sampled_tokens"] == alone["sampled_tokens"] > stage["attempts"] == host["attempts"]
    assert stage["tokens_per_s"] * stage["seconds"] == pytest.approx(stage["sampled_tokens"])
    assert stage["ratio"] == pytest.approx(stage["tokens_per_s"] / alone["tokens_per_s"])
    assert 0 < stage["sampling_s"] < stage["seconds"]
    assert host["parts"].keys() >= {"setup", "prompts", "filters", "writing", "page"}
    assert all(0 < seconds < host["seconds"] for seconds in host["parts"].values())


@pytest.mark.long
def test_several_ranks(bench: Callable[..., list[dict[str, Any]]]):
    options = ["--batch", "4", "--new-tokens", "6", "--steps", "1", "--case", "on-policy"]
    one, whole, sharded = bench("ranks", "--device", "cpu", "--small", *options)
    assert [(r["ranks"], r["sharded"]) for r in (one, whole, sharded)] == [(1, False), (2, False), (2, True)]
    assert one["tokens"] == whole["tokens"] == sharded["tokens"]
    assert whole["first_loss"] == pytest.approx(one["first_loss"], rel=1e-4)
    assert sharded["first_loss"] == pytest.approx(one["first_loss"], rel=1e-4)
    assert one["speedup"] == 1.0


def test_a_worker_that_is_stopped_says_where_it_was(tmp_path: Path):
    """It ends with its bench, which names the line that it was in."""
    lines = ["import os, time", "print(os.getpid(), flush=True, file=open('pid', 'w'))", "time.sleep(600)"]
    (tmp_path / "stuck.py").write_text("\n".join(lines))
    code = "from bench.common import run_worker; run_worker('stuck one', ['stuck.py'])"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    made = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **made) as bench:
        pid = tmp_path / "pid"
        while not (pid.is_file() and pid.read_text()):
            time.sleep(0.05)
        bench.terminate()
        _, said = bench.communicate(timeout=60)
    assert bench.returncode == 128 + signal.SIGTERM
    assert "stuck one was stopped here" in said
    assert 'stuck.py", line 3' in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
