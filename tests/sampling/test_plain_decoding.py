"""A module without a cache writes what the engine writes with one, token by token and with the same seeds."""

from __future__ import annotations

import jobs
import pytest
import tiny
import torch

from tutelage.models.own_module import OwnModule
from tutelage.sampling.torch_sampler import TorchSampler

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 0.8)])
def test_samples_are_those_of_the_engine(temperature: float, top_p: float) -> None:
    options = {"max_new_tokens": 12, "temperature": temperature, "top_p": top_p, "seeds": [1, 2, 3]}
    expected = TorchSampler(tiny.llama(), jobs.ENDS, packed=True).sample(PROMPTS, **options)
    seen: dict[int, object] = {}
    sampler = TorchSampler(OwnModule(tiny.llama(packed=False)), jobs.ENDS, packed=False, batch_size=2)
    found = sampler.sample(PROMPTS, **options, ended=seen.update)
    assert [(one.tokens, one.finished) for one in found] == [(one.tokens, one.finished) for one in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=1e-4, atol=1e-4)
    assert [seen[place] for place in range(3)] == found
