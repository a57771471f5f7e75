"""The likeliest tokens of a teacher that gives hidden states: a smaller signal, and an approximate one."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import TopLogprobs
from tutelage.loss.chunk import chunk_logits, torch_chunk_tokens
from tutelage.teachers.protocol import Question, Source, concatenated

LEAST_TAIL = 1e-9  # of the probability beyond the likeliest tokens: below it, rounding is all that is left


class TopKSource:
    """The `k` likeliest tokens, and the mass of all others, of a source of hidden states."""

    def __init__(self, source: Source, k: int) -> None:
        head = source.head()
        assert head is not None
        refuse_all(k, head.weight)
        self.source, self.k, self._head = source, k, head
        self.name, self.ahead = source.name, source.ahead

    def head(self) -> None:
        """None: hidden states are not passed on."""

    @torch.no_grad()
    def answer(self, question: Question) -> TopLogprobs:
        """The likeliest tokens, on the source's device."""
        hidden = self.source.answer(question)
        assert isinstance(hidden, Tensor)
        size = torch_chunk_tokens(hidden.device, len(self._head.weight))
        parts = [top_of(chunk_logits(part, self._head), self.k) for part in hidden.split(size)]
        found = concatenated(parts)
        assert isinstance(found, TopLogprobs)
        return found


def refuse_all(k: int, weight: Tensor) -> None:
    """Raise TutelageError if the `k` likeliest tokens are all that a head of weights [V, D] has."""
    if k >= len(weight):
        raise TutelageError(f"signal.top_k: {k} of {len(weight)} tokens are all of them: lower it")


def top_of(logits: Tensor, k: int) -> TopLogprobs:
    """The `k` likeliest tokens of logits [N, V] (float32 or float64)."""
    logprobs = logits.log_softmax(-1)
    values, ids = logprobs.topk(k)
    rest = logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return TopLogprobs(ids, values.float(), rest.float().clamp_min(torch.tensor(LEAST_TAIL).log()))


def top_of_logprobs(ids: Tensor, logprobs: Tensor) -> TopLogprobs:
    """The same from log-probabilities alone [N, k], some of which may be missing (id −1, −∞); the tail is what they
    leave of 1, rounded to at least `LEAST_TAIL`."""
    tail = (1.0 - logprobs.double().exp().sum(-1)).clamp_min(LEAST_TAIL).log()
    return TopLogprobs(ids, logprobs.float(), tail.float())
