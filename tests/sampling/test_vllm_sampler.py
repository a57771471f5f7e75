"""The vLLM backend against a fake vLLM that decodes with transformers: the calls, their order, and the samples made of
the outputs. `bench/sampling.py` runs the real vLLM on a GPU."""

import json
import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tiny import llama

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.make_sampler import make_sampler
from tutelage.sampling.torch_sampler import TorchSampler
from tutelage.sampling.vllm_sampler import VllmSampler

PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9]]
SETTINGS = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0}


class FakeLLM:
    """One engine in this process, with a model of its own, whose weights are discarded by sleep."""

    made: ClassVar["list[FakeLLM]"] = []

    def __init__(self, model, **options):
        self.options, self.log = options, []
        self.llm_engine = types.SimpleNamespace(vllm_config=types.SimpleNamespace(use_v2_model_runner=False))
        self.shape = json.loads((Path(model) / "config.json").read_text())
        self.files = sorted(p.name for p in Path(model).iterdir())
        self.weights = llama(seed=99)  # load_format dummy: not the student's weights
        self.weights.load_weights = self.load
        FakeLLM.made.append(self)

    def load(self, pairs):
        own = dict(self.weights.named_parameters())
        for name, tensor in pairs:
            own.pop(name).data.copy_(tensor)
        assert not own, f"no weights for {sorted(own)}"

    def apply_model(self, function):
        self.log.append("load")
        return [function(self.weights)]

    def reset_prefix_cache(self):
        self.log.append("reset")

    def sleep(self, level):
        self.log.append(f"sleep {level}")
        for p in self.weights.parameters():
            p.data.fill_(torch.nan)

    def wake_up(self, tags):
        self.log.append(f"wake {tags[0]}")

    def generate(self, prompts, settings, use_tqdm):
        self.log.append("generate")
        self.asked, out = settings, []
        plain = TorchSampler(self.weights, settings[0].stop_token_ids, True)
        for prompt, s in zip(prompts, settings, strict=True):
            seed = int(torch.randint(2**31, (1,))) if s.seed is None else s.seed
            (sample,) = plain.sample(
                [prompt["prompt_token_ids"]],
                max_new_tokens=s.max_tokens,
                temperature=s.temperature,
                top_p=s.top_p,
                seeds=[seed],
            )
            # per position: the sampled token, then a more likely one
            pairs = [x for p in sample.logprobs for x in (p, 0.0)]
            logprobs = types.SimpleNamespace(logprobs=pairs, start_indices=list(range(0, len(pairs), 2)))
            logprobs = None if s.logprobs is None else logprobs
            reason = "stop" if sample.finished else "length"
            answer = types.SimpleNamespace(token_ids=list(sample.tokens), logprobs=logprobs, finish_reason=reason)
            out.append(types.SimpleNamespace(outputs=[answer]))
        return out


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM = FakeLLM
    module.SamplingParams = lambda **options: types.SimpleNamespace(**options)
    monkeypatch.setitem(sys.modules, "vllm", module)
    FakeLLM.made.clear()


def test_samples_come_from_the_live_weights(vllm):
    live = llama()
    sampler = VllmSampler(live, (2, 3), True, max_length=64, logprobs=True)
    (engine,) = FakeLLM.made
    assert engine.files == ["config.json"]  # no weights on disk
    assert engine.shape["architectures"] == ["LlamaForCausalLM"]
    samples = sampler.sample(PROMPTS, seeds=[1, 2, 3], **SETTINGS)
    scores = TorchSampler(live, (), True).score(PROMPTS, [s.tokens for s in samples])
    for sample, score in zip(samples, scores, strict=True):
        torch.testing.assert_close(torch.tensor(sample.logprobs), score, rtol=1e-4, atol=1e-4)
        assert sample.finished == (sample.tokens[-1] in (2, 3))
    assert engine.asked[0].stop_token_ids == [2, 3]
    assert (engine.asked[0].logprobs, engine.asked[0].flat_logprobs) == (0, True)
    plain = VllmSampler(live, (2, 3), True, max_length=64).sample(PROMPTS, seeds=[1, 2, 3], **SETTINGS)
    assert [s.tokens for s in plain] == [s.tokens for s in samples]
    assert [s.logprobs for s in plain] == [()] * 3


def test_only_public_options_are_given_to_vllm(vllm):
    VllmSampler(llama(), (), True, max_length=64)
    options = FakeLLM.made[0].options
    assert options["async_scheduling"] is True
    assert "scheduler_cls" not in options


def test_new_weights_reach_it_and_sleep_gives_memory_back(vllm):
    sampler = VllmSampler(llama(), (), True, max_length=64)
    (engine,) = FakeLLM.made
    before = sampler.sample(PROMPTS, seeds=[1, 2, 3], **SETTINGS)
    same = sampler.sample(PROMPTS, seeds=[1, 2, 3], **SETTINGS)  # woken up with the same weights
    sampler.update_weights(llama(seed=5))
    after = sampler.sample(PROMPTS, seeds=[1, 2, 3], **SETTINGS)
    assert before == same != after
    again = ["wake weights", "load", "reset", "wake kv_cache", "generate", "sleep 2"]
    assert engine.log == ["load", "reset", "generate", "sleep 2", *again, *again]


def test_samples_depend_on_all_seeds_or_each_on_its_own(vllm):
    sampler = VllmSampler(llama(), (), True, max_length=64)
    state = torch.get_rng_state()
    a, b = (sampler.sample(PROMPTS, seeds=seeds, **SETTINGS) for seeds in ([1, 2, 3], [1, 2, 4]))
    assert a[0] != b[0]
    assert torch.equal(state, torch.get_rng_state())  # torch's global generator is not advanced
    single = VllmSampler(llama(), (), True, max_length=64, seeded=True)
    a, b = (single.sample(PROMPTS, seeds=seeds, **SETTINGS) for seeds in ([1, 2, 3], [1, 2, 4]))
    assert a[:2] == b[:2]
    assert a[2] != b[2]


def test_the_second_model_runner_gets_one_seed_per_row(vllm, monkeypatch):
    """It ignores torch's generator, so samples without seeds per row would differ from call to call."""
    original_init = FakeLLM.__init__

    def second(self, model, **options):
        original_init(self, model, **options)
        self.llm_engine.vllm_config.use_v2_model_runner = True

    monkeypatch.setattr(FakeLLM, "__init__", second)
    sampler = VllmSampler(llama(), (), True, max_length=64)
    sampler.sample(PROMPTS, seeds=[1, 2, 3], **SETTINGS)
    assert [s.seed for s in FakeLLM.made[0].asked] == [1, 2, 3]


def test_without_vllm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(TutelageError, match=r"pip install 'tutelage\[vllm\]'"):
        VllmSampler(llama(), (), True, max_length=64)


def test_the_config_chooses_the_backend_and_vllm_needs_cuda():
    template = types.SimpleNamespace(end_of_turn_ids=(2,))
    loaded = types.SimpleNamespace(model=llama(), template=template, packed=True, engine=None)
    sampler = make_sampler(loaded, SamplingConfig(batch_size=7), more_ends=(3,))
    assert (sampler.end_ids, sampler.batch_size) == ((2, 3), 7)
    with pytest.raises(TutelageError, match="vllm needs a CUDA device"):
        make_sampler(loaded, SamplingConfig(backend="vllm"))
