"""Sampling through vLLM on the GPU that trains, in the same process.

vLLM's engine is built from the model's config alone and gets its weights from the live model, in place, before it
samples. Between two calls it sleeps: it gives the memory of its weights and cache back to training.

Differences from `TorchSampler`, for speed:
- Log-probabilities only with `logprobs=True`: training does not use them, and each step would read all logits twice
  more. At temperatures other than 0 and 1, with top_p < 1, they are those after top-p.
- vLLM's first model runner (for architectures that its second one does not support) can give each row its own generator
  only at the cost of one kernel per row. Unless `seeded=True`, a call's samples then depend on all of its seeds
  together and on the prompts of the call.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import keyed_integer
from tutelage.common.types import Sample
from tutelage.models.sharding import gathered
from tutelage.models.surgery.lora import adapted_layers, merged_weights
from tutelage.sampling.sampler import Ended, rooms
from tutelage.sampling.torch_sampler import TorchSampler


class VllmSampler:
    """Samples from a transformers model through vLLM.

    max_length: tokens of the longest prompt and response together. batch_size: rows decoded at a time. memory: the
    share of the GPU's memory for the weights, cache and activations of sampling. temperature: the one that all calls
    use, besides 0. seeded, logprobs: see the module. sleep: give memory back between two calls.

    Raises TutelageError if vLLM is not installed.
    """

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
        log_to_stderr()
        try:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, where the weights are
            from vllm import LLM
        except ImportError as error:
            raise TutelageError(
                "sampling.backend: vllm is not installed: pip install 'tutelage[vllm]', or set it to torch"
            ) from error
        self.model, self.end_ids, self.temperature = model, tuple(end_ids), temperature
        self.logprobs, self._sleeps, self.max_length = logprobs, sleep, max_length
        self._scorer = TorchSampler(model, end_ids, packed)
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
                async_scheduling=True,  # vLLM prepares the next step while the GPU runs this one
            )
        second_runner = getattr(self.llm.llm_engine.vllm_config, "use_v2_model_runner", False)
        self.seeded = seeded or second_runner  # its kernel draws each row's numbers from the row's seed
        self._stale, self._asleep = True, False

    def update_weights(self, student: Any) -> None:
        """Use the weights of `student` for all later calls; they are copied by the next call."""
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
        ended: Ended | None = None,
    ) -> list[Sample]:
        """See `Sampler`; `ended` is called once, with all samples.

        Raises ValueError if prompts and seeds differ in number, or for a temperature other than 0 and the sampler's
        own.
        """
        from vllm import SamplingParams

        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        if not prompts:
            return []
        if temperature not in (0.0, self.temperature):
            raise ValueError(f"this sampler was made for temperature {self.temperature}, not {temperature}")
        limits = rooms(prompts, self.max_length, max_new_tokens)
        self._scorer.refuse_unknown(prompts)
        self._wake()
        common = sampling_options(self.end_ids, temperature, top_p, self.logprobs)
        settings = [
            SamplingParams(**common, max_tokens=room, seed=seed % 2**63 if self.seeded else None)
            for seed, room in zip(seeds, limits, strict=True)
        ]
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            torch.manual_seed(keyed_integer(*seeds))
            requests = [{"prompt_token_ids": list(p)} for p in prompts]
            outputs = self.llm.generate(requests, settings, use_tqdm=False)
        if self._sleeps:
            self.llm.sleep(level=2)
            self._asleep = True
        samples = [sample_of(output.outputs[0]) for output in outputs]
        if ended is not None:
            ended(dict(enumerate(samples)))
        return samples

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Sampler`: one packed forward pass of the live model, not vLLM's."""
        self._scorer.model = self.model
        return self._scorer.score(prompts, continuations)

    def _wake(self) -> None:
        """Wake vLLM up and load the newest weights if its own are old or were discarded."""
        if self._asleep:
            self.llm.wake_up(["weights"])
        if self._stale or self._asleep:  # sleeping discards the weights
            self.llm.apply_model(self._load)
            self.llm.reset_prefix_cache()
        if self._asleep:
            self.llm.wake_up(["kv_cache"])
        self._stale = self._asleep = False

    def _load(self, engine_model: Any) -> bool:
        """Copy the live weights into vLLM's model, one parameter at a time."""
        if adapted_layers(self.model):
            engine_model.load_weights(merged_weights(self.model))
        else:
            engine_model.load_weights((name, gathered(p).detach()) for name, p in self.model.named_parameters())
        return True


def log_to_stderr() -> None:
    """Have vLLM, imported afterwards, log there: standard output is for results, as those of `--json`."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def sampling_options(end_ids: Sequence[int], temperature: float, top_p: float, logprobs: bool) -> dict[str, Any]:
    """vLLM's SamplingParams of a call, but for the length and seed of each row."""
    return {
        "temperature": temperature,
        "top_p": top_p,
        "stop_token_ids": list(end_ids),
        "ignore_eos": True,  # `end_ids` already contains the model's own end ids
        "logprobs": 0 if logprobs else None,  # 0: only of the sampled token
        "flat_logprobs": True,  # lists of numbers instead of one object per token
        "detokenize": False,
    }


def sample_of(output: Any) -> Sample:
    """vLLM's output of one prompt as a Sample."""
    tokens = tuple(int(t) for t in output.token_ids)
    flat = output.logprobs  # the sampled token comes first at each position
    logprobs = () if flat is None else tuple(float(flat.logprobs[start]) for start in flat.start_indices)
    return Sample(tokens, logprobs, output.finish_reason == "stop")
