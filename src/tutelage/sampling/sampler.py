"""The sampler's protocol: prompts as token ids in, responses as token ids with log-probabilities out.

`TorchSampler` runs with any transformers model, `VllmSampler` runs vLLM on the GPU that trains.

Each sample has its own seed, and token n of a sample is drawn with the n-th number of that seed's generator, so a
sample does not depend on the other samples of the call. Log-probabilities are those of softmax(logits / temperature)
before top-p (at temperature 0: of softmax(logits)), under the weights of the last `update_weights`. vLLM differs where
`vllm_sampler.py` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import Sample

# Called with the samples that have ended since the last call, by index of the prompt.
Ended = Callable[[Mapping[int, Sample]], None]


class Sampler(Protocol):
    """What rollouts, evaluation and synthesis need from a sampling backend."""

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
        """One response per prompt, of at most `max_new_tokens` tokens; it stops at every end-of-turn id, and where
        prompt and response fill the model's context.

        prompts: token ids, of any lengths. seeds: one per prompt. ended: called during the work, see `Ended`. Raises
        TutelageError for a prompt that fills the context, or has a token that the model does not know.
        """
        ...

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """log p(continuation token | all tokens before it) in nats at temperature 1, one float32 tensor per pair.

        Raises TutelageError for a pair that is longer than the model's context, or has a token that it does not know.
        """
        ...

    def update_weights(self, student: Any) -> None:
        """Use the weights of `student` (a transformers model) for all later calls."""
        ...


def rooms(prompts: Sequence[Sequence[int]], context: int | None, max_new_tokens: int) -> list[int]:
    """Per prompt, how many tokens a response may have: `max_new_tokens`, or what the context leaves.

    Raises TutelageError for a prompt that leaves nothing.
    """
    if context is None:
        return [max_new_tokens] * len(prompts)
    longest = max(map(len, prompts), default=0)
    if longest >= context:
        raise TutelageError(
            f"a prompt of {longest} tokens fills the {context} that the model reads: shorten it or leave it out"
        )
    return [min(max_new_tokens, context - len(prompt)) for prompt in prompts]


@dataclass
class Tally:
    """Totals over the calls of `sample`."""

    read: int = 0  # prompt tokens that went through the model
    shared: int = 0  # prompt tokens copied from another prompt of the call with the same prefix
    drawn: int = 0  # tokens written
    seconds: float = 0.0
