"""Student and teacher sharded over two ranks against one rank: the same steps to 1e-5 (3e-5 on GPUs)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch
from ranks_recipe import GKD, TWO, planned
from recipes_fixture import Workshop
from safetensors.torch import load_file
from two_ranks import DEVICE, ROUNDING, become, on_one_and_two, saved

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import CLOCK_KEYS, read_metrics
from tutelage.models.rms_norm import fuse_norms
from tutelage.models.sharding import local_part, plain_copy, shard
from tutelage.runs.worker import attempt
from tutelage.teachers.local import LocalTeacher
from tutelage.training import trainer as trainer_module
from tutelage.training.compiling import compile_models
from tutelage.training.job import Job
from tutelage.training.trainer import Trainer

pytestmark = pytest.mark.slow

# Batches of 5: 3 examples in 2 micro-batches on one rank, 2 in 1 on the other. Gradients are clipped.
COMMON = {"max_steps": 4, "adam_eps": 1e-3, "batch_size": 5, "epochs": 4, "tokens_per_micro_batch": 72}
COMMON |= {"max_grad_norm": 0.03, "evaluate_every": 1, "precision": "float32"}
CASES: dict[str, dict[str, Any]] = {
    "tied": {"on_policy": 0.0, "tie": True},
    "untied, all student": {"on_policy": 1.0, "batch_size": 3, "gradient_checkpointing": True},
    "one example": {"tie": True, "batch_size": 1, "epochs": 1},  # the other rank has none
    "padded": {"packed": False, "batch_size": 3},
    "bfloat16": {"on_policy": 0.0, "precision": "bfloat16"},
    "pure_bfloat16": {"on_policy": 0.0, "precision": "pure_bfloat16"},
    "compiled": {"compile": "on", "gradient_checkpointing": True},
}
# Allowed error as a fraction of how far a weight moved; under bfloat16 the layers' norms have bfloat16 weights too.
LIMITS = {"bfloat16": 0.1, "pure_bfloat16": 1.0}


def make(folder: Path, sharded: bool, **options: Any) -> Job:
    folder.mkdir(exist_ok=True)
    tie, packed = options.pop("tie", False), options.get("packed", True)
    student = tiny.llama(tie=tie) if packed else tiny.gemma2()
    teacher = tiny.llama(layers=3, hidden=48, seed=1, tie=not tie) if packed else tiny.gemma2(seed=1)
    half = "bfloat16" in options.get("precision", "")
    if not sharded:
        student, teacher = student.to(DEVICE), teacher.to(DEVICE)
    if half:  # as on CUDA
        fuse_norms(student)
    if sharded:
        from accelerate import PartialState

        PartialState(cpu=DEVICE == "cpu")
        if torch.distributed.get_rank():  # the other ranks' weights must not matter
            for parameter in [*student.parameters(), *teacher.parameters()]:
                parameter.data.zero_()
        shard(student, DEVICE, torch.bfloat16 if half else None)
        shard(teacher, DEVICE)
        assert not half or fuse_norms(student) == 5  # fusing again, on sharded weights
    job = jobs.gkd(folder, lengths=(9, 6, 60, 7, 30), model=student, **{**COMMON, "checkpoint_every": 100, **options})
    # The end id exchanges two rows of the teacher's embedding and head.
    loaded_teacher = LocalTeacher(jobs.loaded(teacher, packed), student_end_id=20)
    # one held-out example, so the second rank has none
    return dataclasses.replace(job, teacher=loaded_teacher, validation=tiny.sequences((20,), seed=5))


def weights(job: Job) -> dict[str, torch.Tensor]:
    return plain_copy(job.student.model, device="cpu").state_dict()


def run_cases(folder: Path, sharded: bool) -> None:
    trainer_module.compile_models = partial(compile_models, backend="aot_eager")  # without a compiler's minutes
    for name, options in CASES.items():
        job = make(folder / name, sharded, **(options if sharded else options | {"compile": "off"}))
        trainer = Trainer(job)
        trainer.run()
        found = weights(job)
        if trainer.rank == 0:
            torch.save(found, folder / name / "weights.pt")
            parameters = list(job.student.model.parameters())
            total, held = (sum(map(torch.numel, tensors)) for tensors in (parameters, map(local_part, parameters)))
            moments = sum(local_part(state["exp_avg"]).numel() for state in trainer.optimizer.state.values())
            (folder / name / "sizes.json").write_text(json.dumps([total, held, moments]))


def stop(folder: Path) -> None:
    """A run that is interrupted in its fourth step; its last checkpoint is from the second."""
    trainer = Trainer(make(folder, True, **CASES["tied"], checkpoint_every=2))
    step = trainer.step

    def breaking(number: int) -> dict[str, Any]:
        if number == 3:
            raise KeyboardInterrupt
        return step(number)

    trainer.step = breaking
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def worker(rank: int, port: int, folder: Path) -> None:
    become(rank, port)
    torch._dynamo.config.specialize_int = rank == 1  # sizes as symbols on one rank: a fourth of the time of compiling
    run_cases(folder, True)
    stop(folder / "stopped")
    if rank == 0:
        shutil.copytree(folder / "stopped", folder / "alone")
    torch.distributed.barrier()
    resumed = make(folder / "stopped", True, **CASES["tied"])
    Trainer(resumed).run()
    found = weights(resumed)
    if rank == 0:
        torch.save(found, folder / "stopped" / "weights.pt")
    with pytest.raises(TutelageError, match="the ranks have loaded different models"):
        shard(tiny.llama(vocab=97 + rank), DEVICE)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folders(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same cases on one rank and sharded over two, once for all tests here."""
    return on_one_and_two(python, tmp_path_factory, lambda folder: run_cases(folder, False), worker)


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key].float() - b[key].float()).abs().max()) for key in a)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_sharded_steps_equal_unsharded_ones(folders: tuple[Path, Path], name: str, tmp_path: Path):
    one, two = (saved(folder / name / "weights.pt") for folder in folders)
    assert worst(one, two) <= (ROUNDING if name not in LIMITS else 2e-3)
    # Adam's ε is so large here that a weight moves in proportion to its gradients.
    start = weights(make(tmp_path / "start", False, **CASES[name]))
    for part in ("embed_tokens", "layers.0.mlp.up_proj", "layers.1.self_attn.q_proj", "lm_head", "model.norm."):
        (key,) = (key for key in start if part in key)
        moved = float((one[key] - start[key]).abs().max())
        assert moved > 1e-7 or (name == "pure_bfloat16" and "norm" in key)  # a small step from 1.0 rounds to 1.0
        assert float((one[key] - two[key]).abs().max()) <= LIMITS.get(name, 0.02) * moved, key


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_sharded_metrics_equal_unsharded_ones(folders: tuple[Path, Path], name: str):
    one, two = (read_metrics(folder / name / "metrics.jsonl") for folder in folders)
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert a["validation_loss"] != a["loss"]
        for key in a.keys() - set(CLOCK_KEYS):
            if a[key] is None:
                assert b[key] is None
                continue
            assert b[key] == pytest.approx(a[key], rel=1e-4 if name not in LIMITS else 0.03, abs=1e-6), key


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_rank_holds_half_of_weights_and_moments(folders: tuple[Path, Path], name: str):
    whole, held, moments = json.loads((folders[1] / name / "sizes.json").read_text())
    assert moments == held
    assert 0.5 * whole <= held <= 0.51 * whole  # the embedding's 97 rows are split into 49 and 48
    assert json.loads((folders[0] / name / "sizes.json").read_text()) == [whole, whole, whole]


@pytest.mark.long
def test_a_sharded_run_resumes_bit_by_bit_and_on_one_rank_too(folders: tuple[Path, Path]):
    _, two = folders
    unbroken, resumed = (saved(two / name / "weights.pt") for name in ("tied", "stopped"))
    assert worst(unbroken, resumed) == 0.0
    alone = make(two / "alone", False, **CASES["tied"])
    Trainer(alone).run()
    assert worst(unbroken, weights(alone)) <= ROUNDING
    assert [line["step"] for line in read_metrics(two / "alone" / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.long
def test_a_stage_is_loaded_trained_and_saved_in_shards(workshop: Workshop, warm_children: None):
    training = GKD["training"] | {"max_steps": 3, "shard": True}
    stages = [GKD | {"on_policy": 1.0, "training": training}]
    two, one = (planned(workshop, workshop.folder / name, stages=stages, device=DEVICE) for name in ("two", "one"))
    assert attempt(two, share=TWO) is None
    assert attempt(one) is None
    a, b = (load_file(run.folder / "model" / "model.safetensors") for run in (one, two))
    assert worst(a, b) <= ROUNDING
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (one.folder / "model" / name).read_text() == (two.folder / "model" / name).read_text()
    before, after = (json.loads((run.folder / "result.json").read_text())["perplexity_after"] for run in (one, two))
    assert after == pytest.approx(before, rel=1e-4)


def test_sharding_on_one_rank_does_nothing(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    training = GKD["training"] | {"max_steps": 1, "shard": True}
    assert attempt(planned(workshop, workshop.runs, stages=[GKD | {"training": training}], device=DEVICE)) is None
    assert "gkd: `shard: true` does nothing on one rank" in capsys.readouterr().out


def test_a_model_without_a_list_of_layers_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    with pytest.raises(TutelageError, match="only models with `layers` can be cut or sharded"):
        shard(model, "cpu")
