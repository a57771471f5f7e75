"""λ: whose response an example gets, and where its loss is."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jobs
import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer, keyed_uniform
from tutelage.common.types import Sample, TokenSequence
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.training.on_policy import RolloutPlan, is_on_policy, with_response, write_responses
from tutelage.training.trainer import Trainer


def plan(on_policy: float, seed: int = 0, max_length: int = 64, max_new_tokens: int = 40) -> RolloutPlan:
    return RolloutPlan(on_policy, SamplingConfig(max_new_tokens=max_new_tokens), seed, max_length)


class Counting:
    """A sampler of a tiny model that records its calls."""

    def __init__(self) -> None:
        self.inner = TorchSampler(tiny.llama(), jobs.ENDS, True)
        self.calls: list[dict] = []

    def sample(self, prompts, **options):
        self.calls.append({"prompts": prompts, **options})
        return self.inner.sample(prompts, **options)


# --- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_policy", [0.1, 0.5, 0.9])
def test_the_share_of_on_policy_examples_is_lambda(on_policy: float):
    count = 10_000
    chosen = sum(is_on_policy(plan(on_policy, seed=5), epoch, index) for epoch in range(4) for index in range(2500))
    assert abs(chosen / count - on_policy) < 4 * math.sqrt(on_policy * (1 - on_policy) / count)


def test_lambda_of_zero_is_none_and_of_one_all():
    assert not any(is_on_policy(plan(0.0), 0, i) for i in range(10_000))
    assert all(is_on_policy(plan(1.0), 0, i) for i in range(10_000))


def test_choices_depend_on_seed_epoch_and_example_and_are_nested_in_lambda():
    def choices(on_policy=0.5, seed=0, epoch=0):
        return [is_on_policy(plan(on_policy, seed), epoch, i) for i in range(1000)]

    assert choices() == choices()
    for other in (choices(seed=1), choices(epoch=1)):
        same = sum(a == b for a, b in zip(choices(), other, strict=True))
        assert abs(same - 500) < 4 * math.sqrt(250)  # independent draws
    assert all(b for a, b in zip(choices(0.3), choices(0.6), strict=True) if a)


def authors(folder: Path, batch_size: int, start: int = 0) -> dict[tuple[int, int], str]:
    """(epoch, example) → author in the trainer's steps from `start` on."""
    trainer = Trainer(jobs.gkd(folder, 0.5, (9, 12, 7, 8, 10, 6, 11), batch_size=batch_size, epochs=3))
    out = {}
    for step in range(start, trainer.total_steps):
        epoch, rollouts = step // trainer.steps_per_epoch, trainer.job.rollouts
        assert rollouts is not None
        for s in write_responses(rollouts, trainer._examples(step), epoch, step, trainer.job.sampler, None):
            out[epoch, s.index] = s.author
    return out


@pytest.mark.slow
def test_choices_are_the_same_for_every_batch_size_and_after_a_resume(tmp_path: Path):
    """(For every number of ranks: `test_trainer_ranks.py`.)"""
    expected = authors(tmp_path, 7)
    assert len(expected) == 21
    assert set(expected.values()) == {"data", "student"}
    for batch_size in (1, 2, 5):
        assert authors(tmp_path, batch_size) == expected
    resumed = authors(tmp_path, 2, start=5)
    assert 8 <= len(resumed) < 21
    assert all(expected[key] == author for key, author in resumed.items())


# --- the response ----------------------------------------------------------------------------------------------------


def test_a_sampled_response_follows_the_prompt_and_alone_carries_loss():
    examples = tiny.sequences((9, 30, 12))
    sampler = Counting()
    out = write_responses(plan(1.0), examples, 0, 0, sampler, None)
    for before, after in zip(examples, out, strict=True):
        assert after.ids[:4].tolist() == before.ids[:4].tolist()
        assert after.loss_mask.tolist() == [False] * 4 + [True] * (len(after.ids) - 4)
        assert after.response_tokens == len(after.ids) - 4 >= 1
        assert (after.index, after.author, after.prompt_length) == (before.index, "student", 4)
        assert after.cut == (int(after.ids[-1]) not in jobs.ENDS)
    assert sampler.calls[0]["prompts"] == [e.ids[:4].tolist() for e in examples]
    assert (sampler.calls[0]["temperature"], sampler.calls[0]["top_p"]) == (1.0, 1.0)


def test_data_responses_are_unchanged():
    examples = tiny.sequences([9] * 20)
    out = write_responses(plan(0.5), examples, 0, 0, Counting(), None)
    kept = [a is b for a, b in zip(examples, out, strict=True)]
    assert kept == [not is_on_policy(plan(0.5), 0, i) for i in range(20)]
    assert 3 < sum(kept) < 17
    assert write_responses(plan(0.0), examples, 0, 0, None, None) == examples


def test_no_response_exceeds_max_length():
    examples = [
        dataclasses.replace(s, prompt_length=n) for s, n in zip(tiny.sequences((20, 20, 20)), (3, 12, 15), strict=True)
    ]
    sampler = Counting()
    out = write_responses(plan(1.0, max_length=16), examples, 0, 0, sampler, None)
    assert max(len(s.ids) for s in out) <= 16
    assert len(out[2].ids) == 16  # a prompt of 15 leaves one token
    assert sampler.calls[0]["max_new_tokens"] == 13  # the most that the shortest prompt leaves
    assert write_responses(plan(1.0, max_new_tokens=2), examples, 0, 0, sampler, None)
    assert sampler.calls[1]["max_new_tokens"] == 2


def test_with_response_reports_a_cut():
    example = dataclasses.replace(tiny.sequences((9,))[0], weight=3.0)
    whole = with_response(example, Sample((7, 8, 2), (-1.0,) * 3, True), 7)
    assert (whole.ids[4:].tolist(), whole.cut, whole.weight) == ([7, 8, 2], False, 3.0)
    cut = with_response(example, Sample((7, 8, 2), (-1.0,) * 3, True), 6)
    assert (cut.ids[4:].tolist(), cut.cut) == ([7, 8], True)
    assert with_response(example, Sample((7, 8, 9), (-1.0,) * 3, False), 7).cut


def test_each_sample_has_its_own_seed():
    examples = tiny.sequences([9] * 6)
    same = [TokenSequence(i, examples[0].ids, examples[0].loss_mask, 4) for i in range(6)]
    together = write_responses(plan(1.0), same, 0, 3, Counting(), None)
    assert len({tuple(s.ids.tolist()) for s in together}) == 6
    alone = write_responses(plan(1.0), same[4:5], 0, 3, Counting(), None)
    assert alone[0].ids.tolist() == together[4].ids.tolist()
    later = write_responses(plan(1.0), same[4:5], 0, 4, Counting(), None)
    assert later[0].ids.tolist() != together[4].ids.tolist()


# --- pending samples -------------------------------------------------------------------------------------------------


def test_a_sampled_token_that_the_teacher_does_not_know_is_an_error():
    few = dataclasses.replace(plan(1.0), known_tokens=1)
    with pytest.raises(TutelageError, match=r"the student wrote token \d+, and the teacher knows only 1"):
        write_responses(few, tiny.sequences([9]), 0, 0, Counting(), None)


def test_pending_samples_are_used_for_the_same_step_and_examples_only(tmp_path: Path):
    examples, file, sampler = tiny.sequences((9, 8, 7)), tmp_path / "pending" / "3.json", Counting()
    first = write_responses(plan(1.0), examples, 0, 3, sampler, file)
    again = write_responses(plan(1.0), examples, 0, 3, sampler, file)
    assert len(sampler.calls) == 1
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert (a.cut, a.author) == (b.cut, b.author)
    write_responses(plan(1.0), examples[:2], 0, 3, sampler, file)  # with another number of ranks the shares differ
    assert len(sampler.calls) == 2
    write_responses(plan(1.0), examples[:2], 0, 4, sampler, file)
    assert len(sampler.calls) == 3
    assert [p.name for p in file.parent.iterdir()] == ["3.json"]  # no partial file is left
    whole = file.read_bytes()
    for damaged in (whole[:-9], b"", whole.replace(b"[", b"[1", 3)):
        file.write_bytes(damaged)
        write_responses(plan(1.0), examples[:2], 0, 4, sampler, file)
        assert file.read_bytes() == whole
    assert len(sampler.calls) == 6


def test_keyed_numbers_are_uniform_and_equal_on_every_machine():
    assert keyed_integer("order", 0, 1) == 4_473_484_566_461_243_327
    values = torch.tensor([keyed_uniform("author", 0, 0, i) for i in range(10_000)], dtype=torch.float64)
    assert float(values.min()) >= 0.0
    assert float(values.max()) < 1.0
    counts = torch.histc(values, 10, 0.0, 1.0)
    assert float((counts - 1000).abs().max()) < 5 * math.sqrt(900)


def test_sequences_of_one_row_are_drawn_and_sampled_apart():
    """A row that is several sequences has keys for each; the first has those that rows always had."""
    plan = RolloutPlan(0.5, SamplingConfig(), 3, 100)
    drawn = {part: [is_on_policy(plan, 0, index, part) for index in range(400)] for part in (0, 1, 2)}
    assert drawn[0] == [is_on_policy(plan, 0, index) for index in range(400)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        equal = sum(a == b for a, b in zip(drawn[one], drawn[other], strict=True))
        assert 140 < equal < 260  # independent: 200 ± 3 standard deviations of 10 is 170 to 230
    example = tiny.sequences((9,))[0]
    plan = RolloutPlan(1.0, SamplingConfig(max_new_tokens=20), 3, 100)
    sampler = TorchSampler(tiny.llama(), [1], True)
    parts = [dataclasses.replace(example, part=part) for part in (0, 1)]
    first, second = write_responses(plan, parts, 0, 0, sampler, None)
    (alone,) = write_responses(plan, [example], 0, 0, sampler, None)
    assert first.ids.tolist() == alone.ids.tolist()
    assert first.ids.tolist() != second.ids.tolist()
