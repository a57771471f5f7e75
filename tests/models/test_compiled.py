"""Compiled layers compute what they did, once for all layers and all lengths. Backends without code generation."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from tutelage.data.batch import make_micro_batch
from tutelage.loss.objective import CrossEntropy
from tutelage.models import attention
from tutelage.models.compiled import compile_layers
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.sections import COMPILE_FLOP, TrainingConfig
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.training import trainer
from tutelage.training.compiling import compile_models, run_flop

pytestmark = pytest.mark.slow

BATCHES = [(9, 6, 14), (7, 8), (30, 3, 5, 6, 7), (11,), (40, 2)]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(model: Any, lengths: tuple[int, ...], packed: bool = True) -> Tensor:
    rows = tiny.sequences(lengths, seed=sum(lengths))
    batch = make_micro_batch(rows, [1.0] * len(rows), not packed)
    loss, _ = LanguageModel(model)(batch, CrossEntropy())
    loss.backward()
    found = torch.cat([loss.detach()[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])
    model.zero_grad()
    return found


def one_call(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, _: Tensor, longest: int, __: int, scale: float) -> Tensor:
    """What flash attention computes on CUDA: all sequences at once, from their ends."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    place = torch.arange(q.shape[2])
    row = torch.searchsorted(ends[1:].long(), place, right=True)
    seen = (row[:, None] == row[None]) & (place[:, None] >= place[None]) & (place[:, None] < place[None] + longest)
    return F.scaled_dot_product_attention(q, k, v, seen, scale=scale).transpose(1, 2)


# AOT autograd, half of the time of compiling, traces each kind of layer, of step and of precision once.
@pytest.mark.long
@pytest.mark.parametrize(("checkpointing", "backend"), [(False, "eager"), (True, "aot_eager")])
def test_one_code_serves_all_layers_and_lengths_where_attention_is_one_call(
    monkeypatch: pytest.MonkeyPatch, checkpointing: bool, backend: str
):
    monkeypatch.setattr(attention, "_has_varlen", lambda _: True)
    monkeypatch.setattr(attention, "_varlen", one_call)
    plain = tiny.llama(layers=4).train()
    if checkpointing:
        plain.gradient_checkpointing_enable({"use_reentrant": False})
    compiled, counter = copy.deepcopy(plain), CompileCounterWithBackend(backend)
    compile_layers(compiled, True, counter)
    for lengths in BATCHES:
        assert torch.allclose(gradients(plain, lengths), gradients(compiled, lengths), rtol=1e-5, atol=1e-5)
    assert counter.frame_count <= 3  # one sequence, or as many as heads, is a case of its own; never one per batch


@pytest.mark.long
@pytest.mark.parametrize(("packed", "backend"), [(True, "eager"), (False, "aot_eager")])
def test_other_attention_runs_between_compiled_parts(packed: bool, backend: str):
    plain = (tiny.llama() if packed else tiny.gemma2()).train()
    compiled, counter = copy.deepcopy(plain), CompileCounterWithBackend(backend)
    compile_layers(compiled, True, counter)
    for lengths in BATCHES:
        found = gradients(compiled, lengths, packed)
        assert torch.allclose(gradients(plain, lengths, packed), found, rtol=1e-4, atol=1e-4)
    assert 0 < counter.frame_count <= 12


def test_a_copy_of_a_compiled_model_runs_its_own_weights():
    model = tiny.llama().train()
    compile_layers(model, True, "eager")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.zero_()
    assert not torch.equal(gradients(model, (9, 6)), gradients(other, (9, 6)))


def test_sampling_is_not_compiled():
    plain = tiny.llama()
    compiled, counter = copy.deepcopy(plain), CompileCounterWithBackend("eager")
    compile_layers(compiled, False, counter)
    found = [
        TorchSampler(model, jobs.ENDS, True).sample([[5, 6, 7], [8, 9]], max_new_tokens=12, seeds=[1, 2])
        for model in (plain, compiled)
    ]
    assert found[0] == found[1]
    assert counter.frame_count == 0


def test_a_teacher_is_compiled_in_evaluation_mode_and_a_student_in_training():
    counter = CompileCounterWithBackend("eager")
    model = tiny.llama()
    compile_layers(model, True, counter)
    gradients(model, (9, 6))
    assert counter.frame_count == 0
    compile_layers(model, False, counter)
    gradients(model, (9, 6))
    assert counter.frame_count > 0


def test_an_architecture_that_does_not_compile_runs_as_before(capsys: pytest.CaptureFixture[str]):
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such instruction")

    plain = tiny.llama().train()
    compiled = copy.deepcopy(plain)
    compile_layers(compiled, True, broken)  # type: ignore[arg-type]
    assert torch.equal(gradients(plain, (9, 6)), gradients(compiled, (9, 6)))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("note: LlamaDecoderLayer cannot be compiled")


@pytest.mark.long
@pytest.mark.parametrize(("precision", "backend"), [("float32", "eager"), ("bfloat16", "aot_eager")])
def test_training_with_compiled_layers_is_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str, backend: str
):
    monkeypatch.setattr(trainer, "compile_models", lambda *a: compile_models(*a, backend=backend))
    found = {}
    for switch in ("off", "on"):
        options = {"compile": switch, "precision": precision, "max_steps": 3, "epochs": 3, "batch_size": 5}
        job = jobs.gkd(tmp_path / switch, 0.0, (9, 6, 14, 7, 30), tokens_per_micro_batch=30, adam_eps=1e-3, **options)
        job.folder.mkdir()
        found[switch] = trainer.Trainer(job).run()["loss"]
        assert ("compiles the layers of student and teacher" in capsys.readouterr().out) == (switch == "on")
    assert found["on"] == pytest.approx(found["off"], rel=1e-5 if precision == "float32" else 1e-2)


def test_auto_leaves_a_cpu_and_short_runs_alone(tmp_path: Path):
    job = jobs.gkd(tmp_path, 0.0)
    assert compile_models(job, job.student.model, 10**12, "eager") == []
    weights = [sum(p.numel() for p in m.parameters()) for m in (job.student.model, job.teacher.loaded.model)]
    assert run_flop(job, 10) == (6 * weights[0] + 2 * weights[1]) * 4 * 10 * (9 + 6 + 14 + 7 + 30) / 5
    assert run_flop(job, 10) < COMPILE_FLOP
    off = dataclasses.replace(job, config=job.config.model_copy(update={"compile": "off"}))
    assert compile_models(off, job.student.model, 1, "eager") == []


def test_yaml_reads_on_and_off_as_truth_values():
    assert [TrainingConfig(compile=value).compile for value in (True, False, "auto")] == ["on", "off", "auto"]  # type: ignore[arg-type]
