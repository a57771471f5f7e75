"""Decoding for modules without a cache: the whole text goes through the model for every token. Exact, and slow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tutelage.common.types import Sample
from tutelage.models.language_model import language_model_head
from tutelage.sampling.draw_token import choose, uniform_table
from tutelage.sampling.sampler import Ended


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
    """One sample per prompt, as `padded_decoding.decode_padded` gives them."""
    out: list[Sample] = []
    for start in range(0, len(prompts), batch_size):
        place = slice(start, start + batch_size)
        done = _decode(model, ends, prompts[place], limits[place], seeds[place], temperature, top_p)
        if ended is not None:
            ended(dict(enumerate(done, start=start)))
        out += done
    return out


def _decode(
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
