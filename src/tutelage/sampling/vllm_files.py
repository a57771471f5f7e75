"""A model in its files, held by vLLM on several GPUs of one host (tensor parallelism): writing, and last hidden states.

No weight of it comes into this process. vLLM is used by its public options alone; `tests/sampling/test_vllm_api.py`
checks them against the source of a release.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.progress import tell
from tutelage.common.types import Sample
from tutelage.models.files import locate, model_fingerprint
from tutelage.models.limits import refuse_unknown_token
from tutelage.models.load import LoadedModel, load_shape
from tutelage.models.whole import adapter_base
from tutelage.recipe.sections import ModelConfig
from tutelage.sampling.sampler import Ended, rooms
from tutelage.sampling.vllm_sampler import log_to_stderr, sample_of, sampling_options

MOST_TOKENS = 65_536  # of a prompt and its response: vLLM starts only where its cache holds the longest
WHOLE_SHARE = 0.9  # of each GPU's memory, which the models of a run share
_ROWS_AT_ONCE = 16  # times the batch: replies of so many prompts are given back together, so a kill loses no more


@dataclass(frozen=True)
class VllmEngine:
    """vLLM with a model of its own. `llm`: its `LLM`; `context`: tokens of the longest prompt and response together;
    `dtype`: that it computes in; `batch_size`: rows decoded at a time; `config`: where its files are."""

    llm: Any
    context: int
    config: ModelConfig
    dtype: torch.dtype = torch.bfloat16
    batch_size: int = 1


class VllmFiles:
    """A `Sampler` of an engine. `loaded`: the model's shapes, tokenizer and template; `end_ids`: ids that end a
    response. A sample depends on its own seed alone."""

    def __init__(self, engine: VllmEngine, loaded: LoadedModel, end_ids: Sequence[int]) -> None:
        self.llm, self.batch_size, self.context = engine.llm, engine.batch_size, engine.context
        self.loaded, self.end_ids = loaded, tuple(end_ids)

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
        """See `Sampler`. Raises ValueError if prompts and seeds differ in number."""
        from vllm import SamplingParams

        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        limits = rooms(prompts, self.context, max_new_tokens)
        self._refuse_unknown(prompts)
        options = sampling_options(self.end_ids, temperature, top_p, logprobs=False)
        samples: list[Sample] = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE * self.batch_size):
            places = range(start, min(len(prompts), start + _ROWS_AT_ONCE * self.batch_size))
            settings = [SamplingParams(**options, max_tokens=limits[i], seed=seeds[i] % 2**63) for i in places]
            outputs = self._generate([prompts[i] for i in places], settings)
            new = [sample_of(output.outputs[0]) for output in outputs]
            samples += new
            if ended is not None:
                ended(dict(zip(places, new, strict=True)))
        return samples

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Sampler`; by vLLM's log-probabilities of prompt tokens. A pair must leave room for one token more."""
        from vllm import SamplingParams

        pairs = [[*prompt, *more] for prompt, more in zip(prompts, continuations, strict=True)]
        rooms(pairs, self.context, 1)
        self._refuse_unknown(pairs)
        settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        outputs = self._generate(pairs, [settings] * len(pairs))
        return [
            torch.tensor(
                [output.prompt_logprobs[place][pair[place]].logprob for place in range(len(prompt), len(pair))]
            )
            for output, pair, prompt in zip(outputs, pairs, prompts, strict=True)
        ]

    def update_weights(self, student: Any) -> None:
        """Raises TypeError: its weights are those of the files."""
        raise TypeError("a model in its files has no other weights")

    def _refuse_unknown(self, rows: Sequence[Sequence[int]]) -> None:
        highest = max(rows, key=lambda ids: max(ids, default=0), default=())
        refuse_unknown_token(f"`{self.loaded.name}`", self.loaded.model, None, highest, f"prompt {list(highest)[:8]}…")

    def _generate(self, prompts: Sequence[Sequence[int]], settings: Sequence[Any]) -> list[Any]:
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self.llm.generate(requests, settings, use_tqdm=False) if requests else []


def load_writer(config: ModelConfig, batch_size: int, memory: float) -> LoadedModel:
    """A model that vLLM holds on `config.tensor_parallel` GPUs for writing: its shapes, with the engine.

    `batch_size`: rows decoded at a time. `memory`: share of each GPU's memory. Raises TutelageError as `start_vllm`.
    """
    shape, folder, context = _shape(config)
    options = {"dtype": "bfloat16", "max_num_seqs": batch_size, "logprobs_mode": "raw_logprobs"}
    options |= {"skip_tokenizer_init": True}
    llm = start_vllm(config, folder, memory=memory, max_model_len=context, **options)
    return replace(shape, engine=VllmEngine(llm, context, config, batch_size=batch_size))


def load_reader(config: ModelConfig, precision: str, tokens: int) -> LoadedModel:
    """A model that vLLM holds for its last hidden states (`read_hidden`): its shapes, with the engine.

    `precision`: the type that it computes in; `tokens`: read at once. Raises TutelageError as `start_vllm`.
    """
    _needs_hosts(config)
    from vllm.config import PoolerConfig

    shape, folder, context = _shape(config)
    llm = start_vllm(
        config,
        folder,
        memory=WHOLE_SHARE,
        dtype=precision,
        tokenizer=config.tokenizer or folder,  # for token ids it is not used, but pooling does not start without one
        enforce_eager=True,  # compiling takes minutes at each start; what it gains for prompts was not measured
        runner="pooling",
        convert="embed",
        pooler_config=PoolerConfig(task="token_embed"),
        hf_overrides={"head_dtype": "model"},  # hidden states in the type that they were computed in
        enable_prefix_caching=False,  # a cached token has no hidden state
        max_num_batched_tokens=max(tokens, context),
        max_model_len=context,
    )
    return replace(shape, engine=VllmEngine(llm, context, config, getattr(torch, precision)))


def read_hidden(engine: VllmEngine, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Last hidden states [L, D] of each sequence of token ids, after the last norm, in CPU memory.

    Raises ValueError for a sequence that fills the context: its last token may wait forever for vLLM's scheduler, which
    keeps one place free where it reads a prompt in parts.
    """
    from vllm import PoolingParams

    if (longest := max(map(len, sequences), default=0)) >= engine.context:
        raise ValueError(f"hidden states of {longest} tokens, and vLLM gives those of {engine.context - 1}")
    requests = [{"prompt_token_ids": list(ids)} for ids in sequences]
    plain = PoolingParams(use_activation=False)  # not normalised
    outputs = engine.llm.encode(requests, pooling_params=plain, pooling_task="token_embed", use_tqdm=False)
    return [output.outputs.data for output in outputs]


def start_vllm(config: ModelConfig, folder: str, *, memory: float, **options: Any) -> Any:
    """vLLM's `LLM` on a model's files, over `config.tensor_parallel` GPUs; over the hosts of a Ray cluster where this
    one has fewer and RAY_ADDRESS is set. For one, without a GPU, in vLLM's build for CPUs.

    Raises TutelageError, one line, if vLLM is not installed, for fewer GPUs, and for what vLLM refuses.
    """
    from_hosts = _needs_hosts(config)
    from vllm import LLM

    wanted = config.tensor_parallel or 1
    if from_hosts:
        options["distributed_executor_backend"] = "ray"
    gpus = from_hosts or torch.cuda.device_count()
    where = f"{wanted} GPU{'s' * (wanted > 1)}" if gpus else "the CPU"
    tell(f"vLLM starts with `{config.path}` on {where}: from half a minute to several", file=sys.stderr)
    try:
        return LLM(
            model=folder,
            revision=config.revision if not Path(folder).exists() else None,
            trust_remote_code=config.trust_remote_code,
            tensor_parallel_size=wanted,
            gpu_memory_utilization=memory,
            disable_log_stats=True,
            **options,
        )
    except (ValueError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TutelageError(f"vLLM cannot hold `{config.path}` on {where}: {first}") from error


def _needs_hosts(config: ModelConfig) -> bool:
    """Whether the GPUs of this host are too few for a model, so that a Ray cluster's are taken.

    Raises TutelageError without such a cluster, or without vLLM.
    """
    wanted, here = config.tensor_parallel or 1, torch.cuda.device_count()
    over_hosts = wanted > here and "RAY_ADDRESS" in os.environ
    if wanted > max(here, 1) and not over_hosts:
        raise TutelageError(f"tensor_parallel: {wanted} needs {wanted} GPUs, and torch sees {here} here: lower it")
    log_to_stderr()
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise TutelageError("tensor_parallel: vLLM is not installed: pip install 'tutelage[vllm]'") from error
    return over_hosts


def _shape(config: ModelConfig) -> tuple[LoadedModel, str, int]:
    """The model's shapes, under the fingerprint that `load_model` gives it; where its files are; its context here."""
    folder, _ = locate(config)
    if adapter_base(Path(folder)) is not None:
        raise TutelageError(
            f"`{config.path}` is an adapter, and `tensor_parallel` needs whole weights: `tutelage export --merge` it"
        )
    shape = load_shape(config)
    shape = replace(shape, fingerprint=fingerprint(model_fingerprint(config), shape.template.fingerprint))
    return shape, folder, min(shape.context or 4_096, MOST_TOKENS)
