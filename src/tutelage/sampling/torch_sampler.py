"""The sampler for any model: `engine.py` for packed ones, `plain_decoding.py` for the others of transformers and for
modules of one's own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import Sample, TokenSequence
from tutelage.data.batch import make_micro_batches
from tutelage.loss.fused_linear import label_logprobs
from tutelage.models.language_model import LanguageModel
from tutelage.models.limits import context_of, refuse_unknown_token
from tutelage.models.own_module import OwnModule
from tutelage.models.sharding import copy_weights, is_sharded, plain_copy
from tutelage.models.surgery.lora import adapted_layers
from tutelage.sampling.engine import Engine
from tutelage.sampling.plain_decoding import decode_padded, decode_whole
from tutelage.sampling.sampler import Ended, Tally, rooms

_SIZE_STEP = 256  # on CUDA an engine's row length is rounded up to a multiple of this, so that few engines are made


class TorchSampler:
    """Samples from a transformers model, or from a copy of it that `update_weights` refreshes.

    There is a copy if the model, or the one that `update_weights` gets, is not in `dtype` (default: the model's own),
    or is sharded; then all ranks must construct the sampler and call `update_weights` together. end_ids: token ids that
    end a response. packed: whether the model takes packed sequences. batch_size: rows decoded at a time. cache_share:
    the share of the device memory free when an engine is made that keys and values may use; training in the same
    process needs the rest.

    `tally` counts all calls; assign a new `Tally()` to start again.
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
        first = next(model.parameters())
        self.dtype = first.dtype if dtype is None or isinstance(model, OwnModule) else dtype
        self._copied = False
        self.model = model
        self.device, self.context = first.device, context_of(model.config)
        self._engine: Engine | None = None
        self.update_weights(model)

    def update_weights(self, student: Any) -> None:
        """See `Sampler`. Without a copy it samples from `student` itself, as it is at every call."""
        # A sharded model cannot be sampled from directly: its ranks do not decode in step.
        if not is_sharded(student) and next(student.parameters()).dtype == self.dtype:
            if self.model is not student:
                self.model, self._copied, self._engine = student, False, None
        elif self._copied:
            copy_weights(student, self.model, learnt=bool(adapted_layers(student)))
        else:
            self.model, self._copied, self._engine = plain_copy(student, self.dtype), True, None

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
        """See `Sampler`. Also raises ValueError if prompts and seeds differ in number."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        if not prompts:
            return []
        limits = rooms(prompts, self.context, max_new_tokens)
        self.refuse_unknown(prompts)
        start = time.perf_counter()
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        with _evaluating(self.model):
            if self.packed:
                size = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
                engine = self._engine_for(len(prompts), size, **settings)
                samples = engine.generate(prompts, limits, seeds, ended)
                read, shared = engine.read_tokens, engine.shared_tokens
            else:
                del settings["max_new_tokens"]
                rest = {"batch_size": self.batch_size, "ended": ended}
                decode = decode_whole if isinstance(self.model, OwnModule) else decode_padded
                samples = decode(self.model, self.end_ids, prompts, limits, seeds, **settings, **rest)
                read, shared = sum(len(p) for p in prompts), 0
        self.tally.read += read
        self.tally.shared += shared
        self.tally.drawn += sum(len(s.tokens) for s in samples)
        self.tally.seconds += time.perf_counter() - start
        return samples

    def _engine_for(self, rows: int, size: int, max_new_tokens: int, temperature: float, top_p: float) -> Engine:
        """An engine for `rows` rows of at most `size` tokens: on CUDA the last call's if it fits, with its recorded
        graph and its cache."""
        slots = min(self.batch_size, rows)
        if self.device.type == "cuda":
            slots, size = self.batch_size, -(-size // _SIZE_STEP) * _SIZE_STEP
        previous = self._engine
        if (
            previous is not None
            and self.device.type == "cuda"
            and (previous.temperature, previous.top_p) == (temperature, top_p)
            and previous.size >= size
            and previous.new_tokens >= max_new_tokens
        ):
            return previous
        self._engine = previous = None  # frees its cache before the next engine is made
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
        """See `Sampler`; `token_budget` is the number of tokens per forward pass."""
        self.refuse_unknown([*prompts, *continuations])
        sequences = []
        for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            ids = torch.tensor([*prompt, *continuation])
            if self.context is not None and len(ids) > self.context:
                text = f"a text of {len(ids)} tokens"
                raise TutelageError(f"{text} is longer than the {self.context} that the model reads")
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

    def refuse_unknown(self, texts: Sequence[Sequence[int]]) -> None:
        """Raise TutelageError for a token that the model has no row for."""
        longest = max(texts, key=lambda ids: max(ids, default=0), default=())
        refuse_unknown_token("the model", self.model, None, longest, f"prompt {list(longest)[:8]}…")


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off for the block; the model may be in training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
