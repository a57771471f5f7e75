"""A template and a sampler without a model, for tests of what is asked and scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tutelage.common.types import Sample


class Letters:
    """A template with one token per character."""

    fingerprint, text = "letters", ""

    def encode_prompts(self, prompts: Sequence[Sequence[Any]], sources: Sequence[str] = ()) -> list[list[int]]:
        return [[ord(letter) for message in messages for letter in message.content] for messages in prompts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def render(self, messages: Sequence[Any], add_generation_prompt: bool) -> str:
        return "".join(message.content for message in messages)

    def tokenizer(self, text: str | list[str], **_: Any) -> dict[str, Any]:
        texts = [text] if isinstance(text, str) else text
        ids = [[ord(letter) for letter in one] for one in texts]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}


class Says:
    """Always answers the same; every token of a continuation has log-probability −1."""

    def __init__(self, text: str) -> None:
        self.text, self.prompts = text, []

    def sample(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **_: Any) -> list[Sample]:
        self.prompts += prompts
        tokens = tuple(map(ord, self.text[:max_new_tokens]))
        return [Sample(tokens, (0.0,) * len(tokens), len(self.text) <= max_new_tokens) for _ in prompts]

    def score(self, prompts: Sequence[Any], continuations: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        self.prompts += prompts
        return [torch.full((len(one),), -1.0) for one in continuations]
