"""Making the sampler that a `sampling` section of a recipe names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tutelage.common.errors import TutelageError
from tutelage.models.load import LoadedModel, load_model
from tutelage.recipe.sections import ModelConfig, SamplingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.sampling.torch_sampler import TorchSampler

NO_VLLM = "sampling.backend: vllm needs a CUDA device; set it to torch"


def make_sampler(
    loaded: LoadedModel,
    sampling: SamplingConfig,
    *,
    more_ends: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    longest: int | None = None,
    training: bool = False,
    cache_share: float = 0.5,
) -> Sampler:
    """A sampler of `loaded` in `dtype` (default: the model's own) that also stops at the ids `more_ends`.

    longest: tokens of the longest prompt and response together, if known; vLLM plans its memory with it.
    training: the model is trained in the same process, so that vLLM gives memory back between two calls.
    cache_share: the share of free device memory that the engine's keys and values may use.

    Raises TutelageError if vLLM is requested without a CUDA device, or is not installed.
    """
    ends = (*loaded.template.end_of_turn_ids, *more_ends)
    if loaded.engine is not None:
        from tutelage.sampling.vllm_files import VllmFiles

        return VllmFiles(loaded.engine, loaded, ends)
    if sampling.backend == "torch":
        return TorchSampler(loaded.model, ends, loaded.packed, sampling.batch_size, dtype, cache_share=cache_share)
    if next(loaded.model.parameters()).device.type != "cuda":
        raise TutelageError(NO_VLLM)
    from tutelage.sampling.vllm_sampler import VllmSampler

    context = loaded.context or 4_096
    return VllmSampler(
        loaded.model,
        ends,
        loaded.packed,
        max_length=min(context, longest or context),
        batch_size=sampling.batch_size,
        memory=sampling.memory,
        temperature=sampling.temperature or 1.0,
        sleep=training,
    )


def load_to_write(config: ModelConfig, device: str, batch_size: int, models: int = 1) -> LoadedModel:
    """A model that only writes, for `make_sampler`: in bfloat16 on CUDA, in float32 on the CPU; with
    `config.tensor_parallel` in vLLM, on as many GPUs.

    `batch_size`: rows that vLLM decodes at a time. `models`: how many the run holds, which share the GPUs' memory.
    Raises TutelageError as `load_model` and `vllm_files.start_vllm` do.
    """
    if config.tensor_parallel is None:
        return load_model(config, device, torch.bfloat16 if device == "cuda" else torch.float32)
    from tutelage.sampling.vllm_files import WHOLE_SHARE, load_writer

    return load_writer(config, batch_size, WHOLE_SHARE / models)
