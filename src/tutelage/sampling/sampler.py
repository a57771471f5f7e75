"""Writing responses: token ids in, token ids and their log-probabilities out.

`TorchSampler` decodes with any transformers model, in one of two ways: models that run packed (`models/attention.py`)
through `engine.py`, the others left-padded through `padded_decoding.py`.

Every sample has its own seed, and token n of a sample is drawn with the n-th number of that seed's generator, so a
sample does not depend on which others are decoded beside it. Log-probabilities are of softmax(logits / temperature)
before top-p (at temperature 0: of softmax(logits)), under the weights of the last `update_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from tutelage.common.types import Sample

Ended = Callable[[Mapping[int, Sample]], None]


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
        ended: Ended | None = None,
    ) -> list[Sample]:
        """One response a prompt; prompts may differ in length; stops at every end-of-turn id. `ended` is given the
        samples that have ended since its last call, by prompt."""
        ...

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """log p(continuation token | everything before), float32, one tensor per pair; temperature 1."""
        ...

    def update_weights(self, student: Any) -> None:
        """Sample from these weights from now on."""
        ...


@dataclass
class Tally:
    """What `sample` has done so far: prompt tokens that went through the model and those that did not because other
    prompts of the call began with them, tokens drawn, and the seconds it took."""

    read: int = 0
    shared: int = 0
    drawn: int = 0
    seconds: float = 0.0
