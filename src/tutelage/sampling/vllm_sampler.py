"""Sampling through vLLM on the GPU that trains, in this very process.

The engine is built from the model's config alone and gets its weights from the live model, in place, before it samples.
Between two calls it sleeps: weights and cache are given back to training.

Differences from `TorchSampler`, the price of speed: log-probabilities only where `logprobs` asks for them (training
does not look at them, and each step would pass over all logits twice more), and below temperature 1 with top_p < 1 they
are those after top-p. vLLM's first model runner, which it uses for architectures that its second one does not know, has
a generator a row only at the cost of a kernel each: there a call's samples depend on all of its seeds together and on
which prompts it holds, unless `seeded`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer
from tutelage.common.types import Sample
from tutelage.models.sharding import gathered
from tutelage.sampling.torch_sampler import TorchSampler


class VllmSampler:
    """`memory`: the share of the GPU's memory that weights, cache and activations of sampling may take."""

    def __init__(
        self,
        model: Any,
        end_ids: Sequence[int],
        packed: bool,
        *,
        max_length: int,
        batch_size: int = 256,
        memory: float = 0.3,
        temperature: float = 1.0,
        seeded: bool = False,
        logprobs: bool = False,
        sleep: bool = True,
    ) -> None:
        try:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, where the weights are
            from vllm import LLM
        except ImportError as error:
            raise TutelageError(
                "sampling.backend: vllm is not installed (pip install 'tutelage[vllm]'); or set it to torch"
            ) from error
        self.model, self.end_ids, self.temperature = model, tuple(end_ids), temperature
        self.logprobs, self._sleeps = logprobs, sleep
        self._plain = TorchSampler(model, end_ids, packed)
        with tempfile.TemporaryDirectory() as folder:
            config = model.config.__class__.from_dict(model.config.to_dict())
            config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
            config.save_pretrained(folder)
            self.llm: Any = LLM(
                model=folder,
                skip_tokenizer_init=True,
                load_format="dummy",
                dtype="bfloat16",
                max_model_len=max_length,
                max_num_seqs=batch_size,
                gpu_memory_utilization=memory,
                enable_sleep_mode=sleep,
                logprobs_mode="raw_logprobs" if temperature in (0.0, 1.0) else "processed_logprobs",
                disable_log_stats=True,
                async_scheduling=True,  # vLLM prepares the next step while the GPU is at work
            )
        second_runner = getattr(self.llm.llm_engine.vllm_config, "use_v2_model_runner", False)
        self.seeded = seeded or second_runner  # its kernel makes each row's random numbers from the row's own seed
        self._stale, self._asleep = True, False

    def update_weights(self, student: Any) -> None:
        """Sample from `student` from now on; its weights are copied when the next call needs them."""
        self.model, self._stale = student, True

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seeds: Sequence[int],
        ended: Callable[[Mapping[int, Sample]], None] | None = None,
    ) -> list[Sample]:
        """See `Sampler`; `ended` is called once, with all of them."""
        from vllm import SamplingParams

        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        if not prompts:
            return []
        if temperature not in (0.0, self.temperature):
            raise ValueError(f"this sampler was made for temperature {self.temperature}, not {temperature}")
        self._ready()
        common = {
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_new_tokens,
            "stop_token_ids": list(self.end_ids),
            "ignore_eos": True,  # the model's own idea of an end is already among `end_ids`
            "logprobs": 0 if self.logprobs else None,  # 0: of the sampled token alone
            "flat_logprobs": True,  # lists of numbers instead of an object a token
            "detokenize": False,
        }
        settings = [SamplingParams(**common, seed=seed % 2**63 if self.seeded else None) for seed in seeds]
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            torch.manual_seed(keyed_integer(*seeds))
            asked = [{"prompt_token_ids": list(p)} for p in prompts]
            outputs = self.llm.generate(asked, settings, use_tqdm=False)
        if self._sleeps:
            self.llm.sleep(level=2)
            self._asleep = True
        samples = [_sample(output.outputs[0]) for output in outputs]
        if ended is not None:
            ended(dict(enumerate(samples)))
        return samples

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Sampler`: one packed forward pass of the live model, not vLLM's."""
        self._plain.model = self.model
        return self._plain.score(prompts, continuations)

    def _ready(self) -> None:
        """Awake, with the newest weights."""
        if self._asleep:
            self.llm.wake_up(["weights"])
        if self._stale or self._asleep:  # sleep has thrown the weights away
            self.llm.apply_model(self._load)
            self.llm.reset_prefix_cache()
        if self._asleep:
            self.llm.wake_up(["kv_cache"])
        self._stale = self._asleep = False

    def _load(self, engine_model: Any) -> bool:
        engine_model.load_weights((name, gathered(p).detach()) for name, p in self.model.named_parameters())
        return True


def _sample(output: Any) -> Sample:
    tokens = tuple(int(t) for t in output.token_ids)
    flat = output.logprobs  # the sampled token comes first at each position
    logprobs = () if flat is None else tuple(float(flat.logprobs[start]) for start in flat.start_indices)
    return Sample(tokens, logprobs, output.finish_reason == "stop")
