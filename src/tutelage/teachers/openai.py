"""A teacher behind an OpenAI-compatible endpoint that gives `prompt_logprobs` (vLLM): its likeliest tokens.

`POST completions` with token ids as prompts and `prompt_logprobs: k`. The entry of a position holds the k likeliest
tokens there, and the prompt's own token, after all tokens before it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from tutelage.common.types import TopLogprobs
from tutelage.teachers.patience import PatientClient
from tutelage.teachers.protocol import Question
from tutelage.teachers.top_k import top_of_logprobs


class OpenAISource:
    """Asks the endpoint at `url` for the `k` likeliest tokens of `model`.

    `name`: of the teacher, as the user wrote it; `rows`: token ids that it knows; `key_variable`: the environment
    variable with the endpoint's key; `wait`: seconds that it may be away.
    """

    ahead = 4  # the endpoint batches requests

    def __init__(self, url: str, model: str, k: int, name: str, rows: int, key_variable: str, wait: float) -> None:
        self.name, self.model, self.k, self.rows = name, model, k, rows
        advice = "start it or correct `signal.openai`, then the same command goes on"
        self._client = PatientClient(f"the teacher `{model}`", url, key_variable, wait, advice)

    def head(self) -> None:
        """None: the endpoint gives no hidden states."""

    def answer(self, question: Question) -> TopLogprobs:
        """The likeliest tokens [N, k] at the question's positions, in CPU memory."""
        parts = question.parts()
        asked = {
            "model": self.model,
            "prompt": [part.ids.tolist() for part in parts],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": self.k,
        }
        response = self._client.ask("POST", "completions", json.dumps(asked).encode(), "application/json")
        try:
            choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
            given = [choice["prompt_logprobs"] for choice in choices]
            if len(given) != len(parts):
                raise ValueError(f"{len(given)} answers to {len(parts)} prompts")
            ids, logprobs = [], []
            for part, positions in zip(parts, given, strict=True):
                for position in part.predict.tolist():
                    found = self._likeliest(positions, position + 1, part, len(positions or ()))
                    ids.append([token for token, _ in found])
                    logprobs.append([value for _, value in found])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._client.failure(
                f"gives no `prompt_logprobs` of the tokens that were sent ({type(error).__name__}: {error}): use an "
                f"endpoint that gives them for this very tokenizer (vLLM with --max-logprobs {self.k} or more)"
            ) from None
        return top_of_logprobs(torch.tensor(ids), torch.tensor(logprobs))

    def _likeliest(self, positions: Any, place: int, part: Question, count: int) -> list[tuple[int, float]]:
        """The k likeliest tokens at a place, padded with (−1, −∞). Raises ValueError for what cannot be."""
        if count != part.lengths[0]:
            raise ValueError(f"{count} positions for {part.lengths[0]} tokens")
        entries = {int(token): float(entry["logprob"]) for token, entry in positions[place].items()}
        if int(part.ids[place]) not in entries:
            raise ValueError(f"token {int(part.ids[place])} was sent, and its own log-probability is not there")
        if any(not 0 <= token < self.rows or math.isnan(value) or value > 1e-3 for token, value in entries.items()):
            raise ValueError("a token that the teacher does not have, or no log-probability")
        ranked = sorted(entries.items(), key=lambda entry: (-entry[1], entry[0]))[: self.k]
        if sum(math.exp(value) for _, value in ranked) > 1.001:
            raise ValueError("probabilities of more than 1 together")
        return ranked + [(-1, -math.inf)] * (self.k - len(ranked))
