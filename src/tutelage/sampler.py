"""Writing responses: token ids in, token ids and their log-probabilities out.

`TorchSampler` decodes with any transformers model, in one of two ways:
 - models that run packed (`attention.py`) prefill all prompts in one packed pass and decode against a cache in which
   each row has its own length, so that no row ever sees padding;
 - the others run left-padded with transformers' own cache.

Every sample has its own seed, and token n of a sample is drawn with the n-th number of that seed's generator, so a
sample does not depend on which others are decoded beside it. Log-probabilities are of softmax(logits / temperature)
before top-p (at temperature 0: of softmax(logits)), under the weights of the last `update_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tutelage.attention import Packing
from tutelage.batch import make_micro_batches
from tutelage.kernels import label_logprobs
from tutelage.kernels.chunked import chunk_logits
from tutelage.model import LanguageModel, language_model_head, whole
from tutelage.types import Sample
from tutelage.types import Sequence as TokenSequence

Progress = Callable[[int], None]


class Sampler(Protocol):
    """What rollouts, evaluation and synthesis ask of a backend."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seeds: Sequence[int],
    ) -> list[Sample]:
        """One response a prompt; prompts may differ in length; stops at every end-of-turn id."""
        ...

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """log p(continuation token | everything before), float32, one tensor a pair; temperature 1."""
        ...

    def update_weights(self, student: Any) -> None:
        """Sample from these weights from now on."""
        ...


@dataclass
class _Rows:
    """The rows still being written. `row[b]` is the position of row b in the call's prompts."""

    row: Tensor  # [B]
    lengths: Tensor  # [B] tokens in the cache
    last: Tensor  # [B] the token to feed next
    uniforms: Tensor  # [B, max_new_tokens] one number in [0, 1) a token


class TorchSampler:
    """Decoding with a transformers model. A `dtype` other than its own makes a copy, refreshed by `update_weights`."""

    def __init__(
        self,
        model: Any,
        end_ids: Sequence[int],
        packed: bool,
        batch_size: int = 128,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.end_ids, self.packed, self.batch_size = tuple(end_ids), packed, batch_size
        self._own_copy = dtype is not None and dtype != next(model.parameters()).dtype
        self.model = _clone(model, dtype) if self._own_copy and dtype is not None else model
        self.device = next(self.model.parameters()).device

    def update_weights(self, student: Any) -> None:
        """Copy `student`'s weights when this sampler holds a copy; a sampler over the live model sees them anyway."""
        if not self._own_copy:
            return
        source = dict(student.named_parameters())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(whole(source[name]))

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Sample]:
        """See `Sampler`. `progress` is told how many samples each finished batch had."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        training = self.model.training
        self.model.eval()
        out: dict[int, Sample] = {}
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            run = _Run(self, [list(prompts[i]) for i in chosen], max_new_tokens, temperature, top_p)
            for i, sample in zip(chosen, run.decode([seeds[i] for i in chosen]), strict=True):
                out[i] = sample
            if progress is not None:
                progress(len(chosen))
        self.model.train(training)
        return [out[i] for i in range(len(prompts))]

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
            signal = LanguageModel(self.model)(batch)
            values = label_logprobs(signal.hidden, signal.head, batch.labels).cpu()
            counts = torch.bincount(batch.rows.cpu(), minlength=len(batch.indices)).tolist()
            for index, part in zip(batch.indices, values.split(counts), strict=True):
                out[index] = part
        return out


class _Run:
    """One batch of prompts, from prefill to the last token."""

    def __init__(
        self, sampler: TorchSampler, prompts: list[list[int]], max_new_tokens: int, temperature: float, top_p: float
    ) -> None:
        self.model, self.device = sampler.model, sampler.device
        self.prompts, self.max_new_tokens = prompts, max_new_tokens
        self.temperature, self.top_p = temperature, top_p
        self.ends = torch.tensor(sampler.end_ids or (-1,), device=self.device)
        self.decoder = sampler.model.get_decoder()
        self.head = language_model_head(sampler.model)
        self.cache = (PackedCache if sampler.packed else PaddedCache)(sampler.model, prompts, max_new_tokens)

    def decode(self, seeds: Sequence[int]) -> list[Sample]:
        count, limit = len(self.prompts), self.max_new_tokens
        tokens = torch.zeros((count, limit), dtype=torch.int64, device=self.device)
        logprobs = torch.zeros((count, limit), dtype=torch.float32, device=self.device)
        written = torch.full((count,), limit, device=self.device)
        finished = torch.zeros(count, dtype=torch.bool, device=self.device)
        rows = _Rows(
            torch.arange(count, device=self.device),
            torch.tensor([len(p) for p in self.prompts], device=self.device),
            torch.zeros(count, dtype=torch.int64, device=self.device),
            _uniforms(seeds, limit).to(self.device),
        )
        hidden = self.cache.prefill(self.decoder)
        for step in range(limit):
            chosen, logprob = self._choose(hidden, rows.uniforms[:, step])
            tokens[rows.row, step], logprobs[rows.row, step] = chosen, logprob
            done = torch.isin(chosen, self.ends) & ~finished[rows.row]
            written[rows.row] = torch.where(done, step + 1, written[rows.row])
            finished[rows.row] |= done
            rows.last = chosen
            if step + 1 == limit:
                break
            rows = self._drop_finished(rows, finished)
            if len(rows.row) == 0:
                break
            hidden = self.cache.step(self.decoder, rows)
            rows.lengths = rows.lengths + 1
        return _collect(tokens, logprobs, written, finished)

    def _choose(self, hidden: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens [B] and their log-probabilities [B] from last hidden states [B, D]."""
        logits = chunk_logits(hidden, self.head)
        if self.temperature == 0.0:
            chosen = logits.argmax(-1)
        else:
            logits /= self.temperature
            chosen = draw(torch.softmax(logits, -1), uniforms, self.top_p)
        return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)

    def _drop_finished(self, rows: _Rows, finished: Tensor) -> _Rows:
        """Forget rows that are over, once that frees at least an eighth of the batch: dropping copies the cache."""
        live = ~finished[rows.row]
        count = int(live.sum())
        if count and len(rows.row) - count < max(1, len(rows.row) // 8):
            # Finished rows run along; what they write is past their end and never read.
            return rows
        keep = live.nonzero().squeeze(-1)
        self.cache.keep(keep)
        return _Rows(rows.row[keep], rows.lengths[keep], rows.last[keep], rows.uniforms[keep])


class PackedCache:
    """Keys and values [B, H_kv, S, E] a layer, each row from position 0 on, no padding computed anywhere."""

    def __init__(self, model: Any, prompts: list[list[int]], max_new_tokens: int) -> None:
        self.prompts = prompts
        self.size = max(len(p) for p in prompts) + max_new_tokens
        self.used = max(len(p) for p in prompts)
        device = next(model.parameters()).device
        self.rows = torch.repeat_interleave(
            torch.arange(len(prompts), device=device), torch.tensor([len(p) for p in prompts], device=device)
        )
        self.positions = torch.cat([torch.arange(len(p)) for p in prompts]).to(device)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.write: tuple[Tensor, Tensor] | None = None  # (row, position) of the next decoded token; None: prefill

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: store the new keys and values, give back what to attend to."""
        if self.write is None:
            for store, new in ((self.keys, key), (self.values, value)):
                shape = (len(self.prompts), new.shape[1], self.size, new.shape[3])
                store[layer_idx] = new.new_zeros(shape)
                store[layer_idx][self.rows, :, self.positions] = new[0].transpose(0, 1)
            return key, value
        rows, positions = self.write
        for store, new in ((self.keys, key), (self.values, value)):
            store[layer_idx][rows, :, positions] = new[:, :, 0]
        return self.keys[layer_idx][:, :, : self.used], self.values[layer_idx][:, :, : self.used]

    def prefill(self, decoder: Any) -> Tensor:
        """Run all prompts in one packed pass; the last hidden state of each, [B, D]."""
        lengths = [len(p) for p in self.prompts]
        device = self.positions.device
        ids = torch.tensor([t for p in self.prompts for t in p], device=device)[None]
        cu = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
        packing = Packing(cu, tuple(lengths))
        positions = self.positions[None]
        out = decoder(input_ids=ids, position_ids=positions, past_key_values=self, use_cache=True, packing=packing)
        return out.last_hidden_state[0, cu[1:].long() - 1]

    def step(self, decoder: Any, rows: _Rows) -> Tensor:
        """Feed each row's last token; the next hidden state of each, [B, D]."""
        self.used += 1
        slots = torch.arange(self.used, device=rows.lengths.device)
        mask = torch.zeros((len(rows.row), 1, 1, self.used), device=rows.lengths.device)
        mask.masked_fill_((slots > rows.lengths[:, None])[:, None, None], -torch.inf)
        self.write = (torch.arange(len(rows.row), device=rows.lengths.device), rows.lengths)
        out = decoder(
            input_ids=rows.last[:, None],
            position_ids=rows.lengths[:, None],
            past_key_values=self,
            use_cache=True,
            decode_mask=mask,
        )
        return out.last_hidden_state[:, 0]

    def keep(self, rows: Tensor) -> None:
        for store in (self.keys, self.values):
            for layer in store:
                store[layer] = store[layer][rows]


class PaddedCache:
    """The fallback for architectures that need transformers' own masks and caches: prompts padded on the left."""

    def __init__(self, model: Any, prompts: list[list[int]], max_new_tokens: int) -> None:
        from transformers import DynamicCache

        self.device = next(model.parameters()).device
        width = max(len(p) for p in prompts)
        self.ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        self.cache = DynamicCache(config=model.config)

    def prefill(self, decoder: Any) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self._run(decoder, self.ids, positions)

    def step(self, decoder: Any, rows: _Rows) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        return self._run(decoder, rows.last[:, None], rows.lengths[:, None])

    def _run(self, decoder: Any, ids: Tensor, positions: Tensor) -> Tensor:
        out = decoder(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state[:, -1]

    def keep(self, rows: Tensor) -> None:
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


def draw(probabilities: Tensor, uniforms: Tensor, top_p: float = 1.0) -> Tensor:
    """Inverse-CDF sampling: probabilities [B, V], uniforms [B] in [0, 1) → tokens [B].

    With top_p < 1 only the smallest set of most likely tokens whose mass reaches top_p can be drawn.
    """
    if top_p >= 1.0:
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        position = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)
        return position.squeeze(-1).clamp(max=probabilities.shape[-1] - 1)
    ranked, tokens = probabilities.sort(-1, descending=True)
    cumulative = ranked.cumsum(-1, dtype=torch.float64)
    kept = torch.where(cumulative - ranked < top_p, ranked, 0.0)  # mass before this token is still short of top_p
    return tokens.gather(-1, draw(kept, uniforms)[:, None]).squeeze(-1)


def _uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """[B, count] float64; row b depends on seeds[b] alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _collect(tokens: Tensor, logprobs: Tensor, written: Tensor, finished: Tensor) -> list[Sample]:
    rows = zip(tokens.tolist(), logprobs.tolist(), written.tolist(), finished.tolist(), strict=True)
    return [Sample(tuple(t[:n]), tuple(p[:n]), done) for t, p, n, done in rows]


def _clone(model: Any, dtype: torch.dtype) -> Any:
    """A copy with its parameters in `dtype`. Buffers (rotary frequencies) stay in float32, where they belong."""
    import copy

    clone = copy.deepcopy(model).requires_grad_(False)
    for parameter in clone.parameters():
        parameter.data = parameter.data.to(dtype)
    return clone
