"""Weights in bfloat16 beside float32 masters: the steps that plain PyTorch takes, written out."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import jobs
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

from tutelage.models.own_module import OwnModule
from tutelage.models.working import Working
from tutelage.training.trainer import Trainer

LENGTHS = (9, 6, 14, 7, 30)


def by_hand(job: jobs.Job, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Masters and losses of SFT, one sequence per micro-batch: a bfloat16 model of transformers, float32 sums of its
    gradients, AdamW on float32 masters."""
    masters = copy.deepcopy(job.student.model)
    half = copy.deepcopy(masters).to(torch.bfloat16)
    half.model.rotary_emb = copy.deepcopy(masters.model.rotary_emb)  # transformers keeps its frequencies in float32
    optimizer = torch.optim.AdamW(masters.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        for wide, narrow in zip(masters.parameters(), half.parameters(), strict=True):
            narrow.data.copy_(wide.data)
            wide.grad = torch.zeros_like(wide)
        tokens, total = sum(s.response_tokens for s in job.examples), 0.0
        for sequence in sorted(job.examples, key=lambda s: len(s.ids)):
            predict = sequence.loss_mask[1:].nonzero()[:, 0]
            hidden = half.model(sequence.ids[None]).last_hidden_state[0, predict]
            logits = hidden.float() @ half.lm_head.weight.float().t()
            loss = F.cross_entropy(logits, sequence.ids[1:][predict], reduction="sum") / tokens
            loss.backward()
            total += loss.item()
            for wide, narrow in zip(masters.parameters(), half.parameters(), strict=True):
                wide.grad += narrow.grad.float()
                narrow.grad = None
        torch.nn.utils.clip_grad_norm_(masters.parameters(), 1.0)
        optimizer.step()
        losses.append(total)
    return masters.state_dict(), losses


@pytest.mark.parametrize("tie", [True, False])
def test_a_step_is_transformers_in_bfloat16_with_float32_masters(tmp_path: Path, tie: bool):
    options = {"batch_size": 5, "epochs": 3, "schedule": "constant", "warmup_ratio": 0.0, "precision": "bfloat16"}
    job = jobs.sft(tmp_path, LENGTHS, tiny.llama(tie=tie), tokens_per_micro_batch=1, **options)
    before = {name: p.detach().clone() for name, p in job.student.model.named_parameters()}
    wanted, losses = by_hand(job, 3)
    trainer = Trainer(job)
    found = [trainer.step(i)["loss"] for i in range(3)]
    assert found == pytest.approx(losses, rel=2e-3)
    for name, weight in job.student.model.named_parameters():
        assert weight.dtype == torch.float32
        # Adam's first steps have the size of the learning rate whatever the gradient's, so signs are compared.
        moved = (weight - before[name]).detach()
        error = (weight - wanted[name]).detach().abs().mean()
        assert float(error) < 0.03 * float(moved.abs().mean()), name


def test_the_residual_stream_is_bfloat16_and_weights_are_rounded_once_per_step(tmp_path: Path):
    job = jobs.sft(tmp_path, LENGTHS, batch_size=5, precision="bfloat16", tokens_per_micro_batch=1)
    trainer, seen = Trainer(job), []
    model = trainer.working.model
    model.model.layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    rounded = []
    refresh = trainer.working.refresh
    trainer.working.refresh = lambda: rounded.append(refresh())  # type: ignore[method-assign]
    trainer.step(0)
    assert seen == [torch.bfloat16] * 5
    assert len(rounded) == 1
    assert all(p.grad is None for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_gradients_of_micro_batches_are_added_in_float32():
    masters = tiny.llama()
    working = Working(masters, torch.bfloat16)
    master, weight = masters.model.norm.weight, working.model.model.norm.weight
    for gradient in (256.0, 1.0, 1.0):  # in bfloat16 256 + 1 is 256
        (weight * gradient).sum().backward()
    assert torch.equal(master.grad, torch.full_like(master, 258.0))
    assert weight.grad is None


def test_frozen_weights_and_buffers_are_held_once():
    masters = tiny.llama().to(torch.bfloat16).requires_grad_(False)
    trained = masters.model.layers[0].mlp.up_proj
    trained.weight = nn.Parameter(trained.weight.detach().float())
    working = Working(masters, torch.bfloat16)
    for (name, own), other in zip(masters.named_parameters(), working.model.parameters(), strict=True):
        assert (own is other) == (not own.requires_grad), name
    for own, other in zip(masters.buffers(), working.model.buffers(), strict=True):
        assert own is other
    with torch.no_grad():
        trained.weight += 1.0
    working.refresh()
    assert torch.equal(working.model.model.layers[0].mlp.up_proj.weight, trained.weight.to(torch.bfloat16))


def test_there_is_no_copy_where_nothing_is_rounded():
    model = tiny.llama()
    assert Working(model, torch.float32).model is model
    half = tiny.llama().to(torch.bfloat16)
    assert Working(half, torch.bfloat16).model is half


class TwoTypes(nn.Module):
    """A decoder whose table of positions stays float32."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(97, 8), nn.Linear(8, 97)
        self.map = nn.Linear(8, 8)
        self.register_buffer("positions", torch.ones(64, 8))

    def get_decoder(self):
        return lambda input_ids, **_: self.map(self.embed(input_ids) + self.positions[: input_ids.shape[1]])

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head


def test_a_module_of_ones_own_runs_under_autocast(tmp_path: Path):
    module = OwnModule(TwoTypes())
    job = jobs.sft(tmp_path, LENGTHS, batch_size=5, precision="bfloat16")
    job = dataclasses.replace(job, student=dataclasses.replace(job.student, model=module, packed=False))
    before = module.module.map.weight.detach().clone()
    trainer = Trainer(job)
    assert trainer.working.model is module
    trainer.step(0)
    assert not torch.equal(before, module.module.map.weight)


def test_the_student_samples_from_the_weights_that_it_computes_with(tmp_path: Path):
    from tutelage.sampling.torch_sampler import TorchSampler

    job = jobs.gkd(tmp_path, 1.0, LENGTHS, precision="bfloat16")
    sampler = TorchSampler(job.student.model, jobs.ENDS, True, dtype=torch.bfloat16)
    trainer = Trainer(dataclasses.replace(job, sampler=sampler))
    trainer.step(0)
    assert sampler.model is trainer.working.model  # no third copy
