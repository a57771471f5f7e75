"""A model that the installed vLLM holds, on a GPU or with its build for CPUs, beside the model in this process.

A CPU needs VLLM_CPU_KVCACHE_SPACE=1 (GiB) where less than nine tenths of its memory are free.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import tiny
import torch
from chat_templates import CHATML, tokenizer

from tutelage.models.load import load_model
from tutelage.recipe.sections import ModelConfig, SamplingConfig
from tutelage.sampling import vllm_files
from tutelage.sampling.make_sampler import make_sampler
from tutelage.teachers.local import LocalSource
from tutelage.teachers.protocol import Question, joined
from tutelage.teachers.vllm_source import VllmSource

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]
PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A model with heads of 32, the smallest that vLLM's kernels know."""
    folder, tokens = tmp_path_factory.mktemp("model"), tokenizer(CHATML)
    model = tiny.llama(vocab=len(tokens), hidden=128, packed=False, scale=1.0)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokens.eos_token_id
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return ModelConfig(path=str(folder))


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines compute in float32, without compiling, a small part of the device's memory each."""
    start = vllm_files.start_vllm

    def plain(*args: Any, **options: Any) -> Any:
        return start(*args, **{**options, "dtype": "float32", "enforce_eager": True, "memory": 0.2})

    monkeypatch.setattr(vllm_files, "start_vllm", plain)


def test_its_hidden_states_are_those_of_the_model(config: ModelConfig):
    """Also of prompts that are read in several parts, and of several together."""
    source, local = VllmSource(vllm_files.load_reader(config, "float32", 1)), LocalSource(load_model(config))
    generator = torch.Generator().manual_seed(0)
    lengths = (500, 3, 400, 1, 511, 2)  # of 512 tokens that are read at once
    rows = [torch.randint(3, 90, (length + 1,), generator=generator) for length in lengths]
    asked = [Question(ids, (len(ids),), torch.arange(len(ids) - 1)) for ids in rows]
    for question in (joined(asked), *asked):
        torch.testing.assert_close(source.answer(question), local.answer(question), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(source.head().weight, local.head().weight)


def test_it_writes_and_scores_as_the_model(config: ModelConfig):
    written, plain = vllm_files.load_writer(config, 4, 0.2), load_model(config)
    mine, own = (make_sampler(loaded, SamplingConfig()) for loaded in (written, plain))
    asked = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seeds": [0, 1, 2]}
    greedy = mine.sample(PROMPTS, **asked)
    assert [one.tokens for one in greedy] == [one.tokens for one in own.sample(PROMPTS, **asked)]
    for ours, theirs in zip(mine.score(PROMPTS, PROMPTS), own.score(PROMPTS, PROMPTS), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    drawn = asked | {"temperature": 1.0, "seeds": [3, 4, 2**64 - 1]}
    backwards = drawn | {"seeds": [2**64 - 1, 4, 3]}
    assert mine.sample(PROMPTS, **drawn) == mine.sample(PROMPTS[::-1], **backwards)[::-1]
    end = greedy[0].tokens[2]
    ended = make_sampler(written, SamplingConfig(), more_ends=[end]).sample(PROMPTS[:1], **asked | {"seeds": [0]})
    assert ended[0].tokens == greedy[0].tokens[: greedy[0].tokens.index(end) + 1]
    assert ended[0].finished
