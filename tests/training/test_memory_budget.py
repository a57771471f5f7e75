"""The token budget on a device whose peak memory is known."""

import dataclasses

import jobs
import pytest
import torch

from tutelage.common.errors import TutelageError
from tutelage.common.types import TokenSequence
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.training.memory_budget import token_budget, worst_case
from tutelage.training.trainer import Trainer

GIB = 2**30


class Device:
    """Its peak is `fixed` + `slope` · tokens; the first pass allocates `kept` for good."""

    def __init__(self, fixed, slope, kept):
        self.fixed, self.slope, self.kept, self.calls = fixed, slope, kept, 0

    def __call__(self, tokens):
        self.calls += 1
        return self.fixed + (self.kept if self.calls > 1 else 0) + self.slope * tokens


def test_the_peak_comes_close_to_the_limit_and_stays_below():
    device = Device(fixed=10 * GIB, slope=2_000_000, kept=5 * GIB)
    tokens = token_budget(device, 40 * GIB, 8 * GIB, least=1_000)
    assert tokens % 256 == 0
    peak = 10 * GIB + 5 * GIB + 8 * GIB + 2_000_000 * tokens
    assert 0.9 * 40 * GIB < peak <= 0.95 * 40 * GIB
    assert device.calls == 3


def test_the_longest_sequence_is_the_budget_if_no_more_fits():
    device = Device(fixed=GIB, slope=2_000_000, kept=0)
    assert token_budget(device, int((GIB + 2_000_000 * 1_100) / 0.95) + 1, 0, least=1_090) == 1_090


def test_too_little_memory_is_an_error_that_says_how_much_is_needed():
    device = Device(fixed=10 * GIB, slope=2_000_000, kept=GIB)
    with pytest.raises(TutelageError, match=r"12\.0 GiB do not hold one .* of 4000 tokens, which needs about 21\.5"):
        token_budget(device, 12 * GIB, 2 * GIB, least=4_000)


def test_the_worst_case_has_the_given_number_of_tokens():
    rows = [TokenSequence(i, torch.arange(n), torch.ones(n, dtype=torch.bool), 1) for i, n in enumerate((5, 9))]
    parts = worst_case(rows, 40, longest=16)
    assert [len(p.ids) for p in parts] == [16, 16, 8]
    assert torch.cat([p.ids for p in parts])[:14].tolist() == [*range(5), *range(9)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU's memory")
def test_a_memory_limit_does_not_change_the_steps(tmp_path):
    lengths = (40, 60, 90, 30, 70, 55, 25, 80)
    losses = {}
    for limit in (None, 1.0):
        job = jobs.gkd(tmp_path / str(limit), 0.5, lengths, batch_size=8, max_steps=2, memory_gib=limit)
        assert job.teacher is not None
        job.student.model.cuda()
        job.teacher.module.cuda()
        trainer = Trainer(dataclasses.replace(job, sampler=TorchSampler(job.student.model, jobs.ENDS, True)))
        losses[limit] = [trainer.step(step)["loss"] for step in range(2)]
        assert (trainer.budget.measured is None) == (limit is None)
        assert torch.cuda.max_memory_allocated() < 2**30
    assert losses[None] == pytest.approx(losses[1.0], rel=1e-3)
