"""Decoding of models that the engine does not take, one batch after the other.

Architectures that need transformers' own masks and caches are left-padded. Modules without a cache get the whole text
for every token: exact, and slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import Sample
from tutelage.models.language_model import language_model_head
from tutelage.sampling.draw_token import choose, uniform_table
from tutelage.sampling.sampler import Ended


@torch.no_grad()
def decode_padded(
    model: Any,
    ends: Sequence[int],
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    seeds: Sequence[int],
    *,
    temperature: float,
    top_p: float,
    batch_size: int,
    ended: Ended | None = None,
) -> list[Sample]:
    """One sample per prompt; arguments as in `Sampler.sample`, `ends` are the token ids that end a response, `limits`
    the most tokens of each.

    Batches contain prompts of similar length, the longest first.

    Raises TutelageError for a model that does not keep its state in transformers' cache.
    """
    out: dict[int, Sample] = {}
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _Batch(model, [list(prompts[i]) for i in chosen])
        samples = batch.decode(ends, [seeds[i] for i in chosen], [limits[i] for i in chosen], temperature, top_p)
        done = dict(zip(chosen, samples, strict=True))
        out |= done
        if ended is not None:
            ended(done)
    return [out[i] for i in range(len(prompts))]


class _Batch:
    """Left-padded prompts with their cache."""

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        from transformers import DynamicCache

        self.model, self.decoder, self.head = model, model.get_decoder(), language_model_head(model)
        self.device = next(model.parameters()).device
        width = max(len(p) for p in prompts)
        self.ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        self.lengths = self.mask.sum(-1)
        self.cache: Any = DynamicCache(config=model.config)

    def decode(
        self, ends: Sequence[int], seeds: Sequence[int], limits: Sequence[int], temperature: float, top_p: float
    ) -> list[Sample]:
        """One sample of at most limits[i] tokens per prompt, in their order."""
        limit = max(limits)
        end_ids = torch.tensor(tuple(ends) or (-1,), device=self.device)
        uniforms = uniform_table(seeds, limit).to(self.device)
        rows = torch.arange(len(seeds), device=self.device)  # the rows still in the batch
        finished = torch.zeros(len(seeds), dtype=torch.bool, device=self.device)
        written = torch.tensor(limits, device=self.device)
        full = written.clone()  # a row with so many tokens must leave the batch: the model's context ends there
        tokens = torch.zeros((len(seeds), limit), dtype=torch.int64, device=self.device)
        logprobs = torch.zeros((len(seeds), limit), dtype=torch.float32, device=self.device)
        hidden = self._forward(self.ids, (self.mask.cumsum(-1) - 1).clamp(min=0))
        self._check_cache()
        for step in range(limit):
            chosen, logprob = choose(hidden, self.head, uniforms[rows, step], temperature, top_p)
            tokens[rows, step], logprobs[rows, step] = chosen, logprob
            at_end = torch.isin(chosen, end_ids) & ~finished[rows]
            written[rows] = torch.where(at_end, step + 1, written[rows])
            finished[rows] |= at_end
            must_leave = full[rows] <= step + 1
            live = ~finished[rows] & ~must_leave
            if step + 1 == limit or not bool(live.any()):
                break
            few = int(live.sum()) <= len(rows) - max(1, len(rows) // 8)  # dropping rows copies the cache
            if few or bool(must_leave.any()):
                keep = live.nonzero().squeeze(-1)
                rows, chosen = rows[keep], chosen[keep]
                self.mask, self.lengths = self.mask[keep], self.lengths[keep]
                # Of the cache's ways to select rows, only this one supports linear attention too (Qwen 3.5, LFM 2).
                self.cache.reorder_cache(keep)
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
            hidden = self._forward(chosen[:, None], self.lengths[:, None])
            self.lengths = self.lengths + 1
        columns = (x.tolist() for x in (tokens, logprobs, written, finished))
        return [Sample(tuple(t[:n]), tuple(p[:n]), at_end) for t, p, n, at_end in zip(*columns, strict=True)]

    def _check_cache(self) -> None:
        """Raise TutelageError if the cache is empty: each token would depend only on the one before it."""
        fields = [x for layer in self.cache.layers for x in vars(layer).values()]
        tensors = [x for group in fields for x in (group.values() if isinstance(group, dict) else (group,))]
        if not any(isinstance(x, Tensor) for x in tensors):
            raise TutelageError(
                f"{type(self.model).__name__} does not keep its state in transformers' cache, so it cannot be "
                "sampled from: use a model of another architecture, or `on_policy: 0`"
            )

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states [B, D] after feeding ids [B, L]."""
        out = self.decoder(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state[:, -1]


@torch.no_grad()
def decode_whole(
    model: Any,
    ends: Sequence[int],
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    seeds: Sequence[int],
    *,
    temperature: float,
    top_p: float,
    batch_size: int,
    ended: Ended | None = None,
) -> list[Sample]:
    """One sample per prompt, as `decode_padded` gives them."""
    out: list[Sample] = []
    for start in range(0, len(prompts), batch_size):
        place = slice(start, start + batch_size)
        done = _decode_batch(model, ends, prompts[place], limits[place], seeds[place], temperature, top_p)
        if ended is not None:
            ended(dict(enumerate(done, start=start)))
        out += done
    return out


def _decode_batch(
    model: Any,
    ends: Sequence[int],
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    seeds: Sequence[int],
    temperature: float,
    top_p: float,
) -> list[Sample]:
    decoder, head, device = model.get_decoder(), language_model_head(model), next(model.parameters()).device
    uniforms = uniform_table(seeds, max(limits)).to(device)
    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    live = list(range(len(prompts)))
    for step in range(max(limits)):
        texts = [[*prompts[i], *tokens[i]] for i in live]
        lengths, width = [len(text) for text in texts], max(map(len, texts))
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        places = torch.arange(width, device=device)
        mask = (places < torch.tensor(lengths, device=device)[:, None]).long()
        states = decoder(input_ids=ids, position_ids=places.expand_as(ids), attention_mask=mask).last_hidden_state
        last = states[torch.arange(len(live), device=device), torch.tensor(lengths, device=device) - 1]
        chosen, found = choose(last, head, uniforms[live, step], temperature, top_p)
        for i, token, logprob in zip(live, chosen.tolist(), found.tolist(), strict=True):
            tokens[i].append(token)
            logprobs[i].append(logprob)
        live = [i for i in live if tokens[i][-1] not in ends and len(tokens[i]) < limits[i]]
        if not live:
            break
    return [Sample(tuple(own), tuple(p), own[-1] in ends) for own, p in zip(tokens, logprobs, strict=True)]
