"""Training an adapter: a resumed run, two ranks, and shared weights give what one unbroken run with its own gives."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from two_ranks import DEVICE, ROUNDING, become, on_one_and_two, saved

pytest.importorskip("peft", reason="peft is not installed: pip install 'tutelage[lora]'")

from tutelage.common.interrupt import Interrupted
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.models.sharding import plain_copy, shard
from tutelage.models.surgery import lora
from tutelage.recipe.sections import LoraConfig
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.teachers.local import LocalTeacher
from tutelage.training import checkpoint
from tutelage.training import trainer as trainer_module
from tutelage.training.compiling import compile_models
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.slow

LENGTHS = (9, 6, 60, 7, 30)
COMMON = {"batch_size": 5, "epochs": 3, "tokens_per_micro_batch": 72, "max_steps": 3, "adam_eps": 1e-3}
HEAD = ["q_proj", "v_proj", "down_proj", "lm_head"]
CASES: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "the head too": {"targets": HEAD},
    "shared base": {"teacher": "shared"},
    "sharded": {"shard": True},
    "sharded, the head too, shared base": {"shard": True, "targets": HEAD, "teacher": "shared"},
    "sharded, bfloat16": {"shard": True, "precision": "bfloat16"},
    "compiled": {"compile": "on", "teacher": "shared"},
    "sharded, compiled": {"shard": True, "compile": "on"},
    "checkpointing, no student": {"gradient_checkpointing": True, "on_policy": 0.0},
}


def make(folder: Path, options: dict[str, Any]) -> Any:
    """GKD of an adapter, by another model or by the student's own base."""
    folder.mkdir(exist_ok=True)
    options = {**COMMON, "precision": "float32"} | options
    settings = LoraConfig(r=4, targets=options.pop("targets", "all-linear"), dropout=options.pop("dropout", 0.0))
    own, split = options.pop("teacher", None), options.pop("shard", False) and "RANK" in os.environ
    half = torch.bfloat16 if options["precision"] == "bfloat16" else torch.float32
    model = tiny.llama().to(half).to("cpu" if split else DEVICE)
    lora.add_adapter(model, settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in lora.adapted_layers(model).values():  # or a student that is its teacher would have nothing to learn
        made = 0.1 * torch.randn(layer.lora_B["default"].weight.shape, generator=generator)
        layer.lora_B["default"].weight.data.copy_(made)
    other = tiny.llama() if own == "separate" else tiny.llama(layers=3, hidden=48, seed=1)
    if split:
        shard(model, DEVICE, None if half == torch.float32 else half)
        if own is None:
            shard(other, DEVICE)
    job = jobs.gkd(folder, lengths=LENGTHS, device=DEVICE, model=model, teacher=other, **options)
    if own == "shared":
        job = dataclasses.replace(job, teacher=LocalTeacher(jobs.loaded(model), shared=True))
    return dataclasses.replace(job, sampler=TorchSampler(model, jobs.ENDS, True, 128))


def finish(job: Any, folder: Path) -> dict[str, torch.Tensor]:
    Trainer(job).run()
    weights = lora.adapter_weights(plain_copy(job.student.model))
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save(weights, folder / "weights.pt")
    return weights


def run_cases(folder: Path) -> None:
    trainer_module.compile_models = partial(compile_models, backend="aot_eager")  # without a compiler's minutes
    for name, options in CASES.items():
        finish(make(folder / name, dict(options)), folder / name)


def worker(rank: int, port: int, folder: Path) -> None:
    become(rank, port)
    run_cases(folder)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folders(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return on_one_and_two(python, tmp_path_factory, run_cases, worker)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_take_the_steps_of_one(folders: tuple[Path, Path], name: str):
    one, two = (saved(folder / name / "weights.pt") for folder in folders)
    start = lora.adapter_weights(make(folders[0] / "start", dict(CASES[name])).student.model)
    limit = ROUNDING if "bfloat16" not in name else 2e-4
    assert one.keys() == two.keys() == start.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) <= limit
    assert min(float((one[key] - start[key]).abs().max()) for key in one) > 10 * ROUNDING  # each has learnt
    lines = [read_metrics(folder / name / "metrics.jsonl") for folder in folders]
    for a, b in zip(*lines, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4 if "bfloat16" not in name else 0.02)


def clockless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("targets", ["all-linear", HEAD])
def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, targets: Any):
    options = {"targets": targets, "dropout": 0.0 if targets is HEAD else 0.2, "checkpoint_every": 1}
    unbroken = finish(make(tmp_path / "unbroken", dict(options)), tmp_path / "unbroken")
    trainer = Trainer(make(tmp_path / "broken", dict(options)))
    step = trainer.step

    def stopping(number: int) -> Any:
        if number == 1:
            raise Interrupted("here")
        return step(number)

    trainer.step = stopping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        trainer.run()
    found = checkpoint.latest_checkpoint(tmp_path / "broken" / "checkpoints", "one")
    assert found is not None
    state = torch.load(found[0] / "state.pt", weights_only=True)
    assert len(state["model"]) == len(unbroken)  # the adapter alone
    assert all(".lora_" in name for name in state["model"])
    assert all(".lora_" in name for name in state["optimizer"]["state"])
    resumed = finish(make(tmp_path / "broken", dict(options)), tmp_path / "broken")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert clockless(tmp_path / "broken") == clockless(tmp_path / "unbroken")


@pytest.mark.parametrize("targets", ["all-linear", HEAD])
def test_a_shared_base_trains_as_a_separate_teacher_does(tmp_path: Path, targets: Any):
    shared, separate = (
        finish(make(tmp_path / own, {"teacher": own, "targets": targets}), tmp_path / own)
        for own in ("shared", "separate")
    )
    assert all(torch.equal(shared[name], separate[name]) for name in shared)
    assert clockless(tmp_path / "shared") == clockless(tmp_path / "separate")


def test_only_the_adapter_changes(tmp_path: Path):
    job = make(tmp_path / "run", {})
    Trainer(job).run()
    base = dict(tiny.llama().named_parameters())
    for name, parameter in job.student.model.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer.", ".")])
