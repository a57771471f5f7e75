"""The sampler that runs everywhere: our engine on packed models, transformers' cache elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import Sample, TokenSequence
from tutelage.data.batch import make_micro_batches
from tutelage.loss.fused_linear import label_logprobs
from tutelage.models.language_model import LanguageModel
from tutelage.models.sharding import copy_weights, is_sharded, plain_copy
from tutelage.sampling.engine import Engine
from tutelage.sampling.padded_decoding import decode_padded
from tutelage.sampling.sampler import Ended, Tally

_SIZE_STEP = 256  # on CUDA, engines are made for lengths rounded up to this, so that few have to be made


class TorchSampler:
    """Decoding with a transformers model. Where `dtype` is not its own, or it is sharded (then all ranks call this and
    `update_weights` together), with a copy that `update_weights` refreshes.

    `tally` counts from the start; a `Tally()` put in its place counts from then on. `cache_share`: of the device memory
    that is free when an engine is made, at most, for keys and values; training beside it needs the rest.
    """

    def __init__(
        self,
        model: Any,
        end_ids: Sequence[int],
        packed: bool,
        batch_size: int = 128,
        dtype: torch.dtype | None = None,
        share_prefixes: bool = True,
        cache_share: float = 0.5,
    ) -> None:
        self.share_prefixes, self.cache_share, self.tally = share_prefixes, cache_share, Tally()
        self.end_ids, self.packed, self.batch_size = tuple(end_ids), packed, batch_size
        # A sharded model serves no sampler: its ranks do not decode in step.
        self._own_copy = is_sharded(model) or (dtype is not None and dtype != next(model.parameters()).dtype)
        self.model = plain_copy(model, dtype) if self._own_copy else model
        self.device = next(self.model.parameters()).device
        self._engine: Engine | None = None

    def update_weights(self, student: Any) -> None:
        """Copy `student`'s weights when this sampler holds a copy; a sampler over the live model sees them anyway."""
        if not self._own_copy:
            return
        copy_weights(student, self.model)

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
        """See `Sampler`."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        if not prompts:
            return []
        start = time.perf_counter()
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        with _evaluating(self.model):
            if self.packed:
                engine = self._engine_for(prompts, **settings)
                samples = engine.generate(prompts, [max_new_tokens] * len(prompts), seeds, ended)
                read, shared = engine.read_tokens, engine.shared_tokens
            else:
                rest = {"batch_size": self.batch_size, "ended": ended}
                samples = decode_padded(self.model, self.end_ids, prompts, seeds, **settings, **rest)
                read, shared = sum(len(p) for p in prompts), 0
        self.tally.read += read
        self.tally.shared += shared
        self.tally.drawn += sum(len(s.tokens) for s in samples)
        self.tally.seconds += time.perf_counter() - start
        return samples

    def _engine_for(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, top_p: float
    ) -> Engine:
        """The engine of the last call where it serves again: on CUDA it has recorded its step and keeps its cache."""
        slots, size = min(self.batch_size, len(prompts)), max(len(p) for p in prompts) + max_new_tokens
        if self.device.type == "cuda":
            slots, size = self.batch_size, -(-size // _SIZE_STEP) * _SIZE_STEP
        old = self._engine
        if (
            old is not None
            and self.device.type == "cuda"
            and (old.temperature, old.top_p) == (temperature, top_p)
            and old.size >= size
            and old.room >= max_new_tokens
        ):
            return old
        self._engine = old = None  # frees its cache before the next one is made
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        options |= {"share_prefixes": self.share_prefixes, "cache_share": self.cache_share}
        engine = Engine(self.model, self.end_ids, slots=slots, size=size, **options)
        if self.device.type == "cuda":
            self._engine = engine
        return engine

    @torch.no_grad()
    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], token_budget: int = 16_384
    ) -> list[Tensor]:
        """See `Sampler`."""
        sequences = []
        for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            ids = torch.tensor([*prompt, *continuation])
            mask = torch.zeros(len(ids), dtype=torch.bool)
            mask[len(prompt) :] = True
            sequences.append(TokenSequence(i, ids, mask, len(prompt)))
        out: list[Tensor] = [torch.zeros(0)] * len(sequences)
        for batch in make_micro_batches(sequences, [1.0] * len(sequences), token_budget, padded=not self.packed):
            batch = batch.to(self.device)
            with _evaluating(self.model):
                signal = LanguageModel(self.model)(batch)
            values = label_logprobs(signal.hidden, signal.head, batch.labels).cpu()
            counts = torch.bincount(batch.rows.cpu(), minlength=len(batch.indices)).tolist()
            for index, part in zip(batch.indices, values.split(counts), strict=True):
                out[index] = part
        return out


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout; the model may be in the middle of its training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
