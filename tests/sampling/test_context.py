"""A response ends where the model's context is full; longer prompts and unknown tokens are refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.sampling.torch_sampler import TorchSampler

CONTEXT = 32
PROMPTS = [[(7 * i + k) % 90 + 3 for k in range(n)] for i, n in enumerate((5, 31, 20, 28, 9, 31, 3))]
OPTIONS: dict[str, Any] = {"temperature": 1.0, "seeds": [*range(len(PROMPTS))]}


def gpt2() -> Any:
    """Its positions are a table: one more is an IndexError."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT)).eval()


def sampler(model: Any, packed: bool, ends: Any = ()) -> TorchSampler:
    model.config.max_position_embeddings = CONTEXT
    return TorchSampler(model, ends, packed, batch_size=4)


@pytest.mark.parametrize(("make", "packed"), [(tiny.llama, True), (tiny.gemma2, False), (gpt2, False)])
@pytest.mark.parametrize("ends", [(), tuple(range(20, 40))])
def test_prompt_and_response_fill_the_context_and_no_more(make: Any, packed: bool, ends: Any):
    samples = sampler(make(), packed, ends).sample(PROMPTS, max_new_tokens=100, **OPTIONS)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        assert sample.finished == (sample.tokens[-1] in ends)
        assert sample.finished or len(prompt) + len(sample.tokens) == CONTEXT
        assert len(prompt) + len(sample.tokens) <= CONTEXT
    few = sampler(make(), packed, ends).sample(PROMPTS, max_new_tokens=2, **OPTIONS)
    assert [s.tokens for s in few] == [s.tokens[:2] for s in samples]


@pytest.mark.parametrize(("make", "packed"), [(tiny.llama, True), (tiny.gemma2, False)])
def test_a_response_is_the_beginning_of_the_one_without_limit(make: Any, packed: bool):
    bounded = sampler(make(), packed).sample(PROMPTS, max_new_tokens=40, **OPTIONS)
    free = TorchSampler(make(), (), packed, batch_size=4).sample(PROMPTS, max_new_tokens=40, **OPTIONS)
    for one, other in zip(bounded, free, strict=True):
        assert one.tokens == other.tokens[: len(one.tokens)]
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs[: len(one.tokens)]))


@pytest.mark.parametrize(("make", "packed"), [(tiny.llama, True), (gpt2, False)])
def test_what_the_model_cannot_read_is_refused(make: Any, packed: bool):
    one = sampler(make(), packed)
    for length in (CONTEXT, CONTEXT + 1, 100):
        with pytest.raises(
            TutelageError, match=rf"^a prompt of {length} tokens fills the {CONTEXT} that the model reads"
        ):
            one.sample([[5], [5] * length], max_new_tokens=3, seeds=[0, 1])
    with pytest.raises(TutelageError, match=r"a text of 33 tokens is longer than the 32 that the model reads"):
        one.score([[5] * 30], [[6] * 3])
    assert [len(values) for values in one.score([[5] * 30], [[6] * 2])] == [2]
    for call in (lambda: one.sample([[5], [4, 97]], max_new_tokens=3, seeds=[0, 1]), lambda: one.score([[5]], [[97]])):
        with pytest.raises(TutelageError, match="has token 97, and the embedding of the model has only 97 rows"):
            call()
