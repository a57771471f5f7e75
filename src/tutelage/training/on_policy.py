"""Who writes the response of each example: the data, or the student as it is now (the paper's λ, eq. 1).

Each example's choice is drawn on its own, from a number that only (seed, epoch, example) determine. So the choice
depends neither on the batch size, nor on the number of ranks, nor on where a run was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.hashing import keyed_integer, keyed_uniform
from tutelage.common.types import Author, Sample, TokenSequence
from tutelage.data.teacher_prompts import teacher_view
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.sampler import Sampler


@dataclass(frozen=True)
class RolloutPlan:
    """How on-policy responses are made. `on_policy` is λ."""

    on_policy: float
    sampling: SamplingConfig
    seed: int
    max_length: int
    known_tokens: int | None = None  # the teacher's; what a student's wider head writes beyond is an error


def is_on_policy(plan: RolloutPlan, epoch: int, index: int) -> bool:
    return keyed_uniform("author", plan.seed, epoch, index) < plan.on_policy


def write_responses(
    plan: RolloutPlan,
    examples: Sequence[TokenSequence],
    epoch: int,
    step: int,
    sampler: Sampler | None,
    pending: Path | None,
) -> list[TokenSequence]:
    """The examples of one optimizer batch, those on policy with the student's own responses.

    The samples are kept in the file `pending`, one a step, so that a run that is killed and goes on from an earlier
    checkpoint trains on the very same responses.
    """
    chosen = [i for i, e in enumerate(examples) if is_on_policy(plan, epoch, e.index)]
    if not chosen or sampler is None:
        return list(examples)
    prompts = [examples[i].ids[: examples[i].prompt_length].tolist() for i in chosen]
    keys = [[step, examples[i].index] for i in chosen]
    samples = _read_pending(pending, keys)
    if samples is None:
        room = plan.max_length - min(len(p) for p in prompts)
        samples = sampler.sample(
            prompts,
            max_new_tokens=max(1, min(plan.sampling.max_new_tokens, room)),
            temperature=plan.sampling.temperature,
            top_p=plan.sampling.top_p,
            seeds=[keyed_integer("sample", plan.seed, step, examples[i].index) for i in chosen],
        )
        _check_known(plan, samples)
        _write_pending(pending, keys, samples)
    out = list(examples)
    for i, sample in zip(chosen, samples, strict=True):
        out[i] = continued(examples[i], sample, plan.max_length)
    return out


def _check_known(plan: RolloutPlan, samples: Sequence[Sample]) -> None:
    highest = max((token for sample in samples for token in sample.tokens), default=0)
    if plan.known_tokens is not None and highest >= plan.known_tokens:
        raise TutelageError(
            f"the student wrote token {highest}, and the teacher knows only {plan.known_tokens}: cut the student's "
            "embeddings to the tokenizer's size, or choose a teacher with as many"
        )


def continued(example: TokenSequence, sample: Sample, max_length: int, author: Author = "student") -> TokenSequence:
    """The example's prompt with the sampled response instead of its own; loss on the response only."""
    prompt = example.ids[: example.prompt_length]
    tokens = sample.tokens[: max(1, max_length - len(prompt))]
    ids = torch.cat([prompt, torch.tensor(tokens, dtype=torch.int64)])
    mask = torch.arange(len(ids)) >= len(prompt)
    cut = not sample.finished or len(tokens) < len(sample.tokens)
    prompts = None
    if example.teacher_prompts is not None:
        view = teacher_view(example)
        prompts = (view.ids[: view.prompt_length],)
    return replace(example, ids=ids, loss_mask=mask, author=author, cut=cut, teacher_prompts=prompts)


def _read_pending(pending: Path | None, keys: list[list[int]]) -> list[Sample] | None:
    if pending is None or not pending.is_file():
        return None
    saved = json.loads(pending.read_text())
    if saved["keys"] != keys:
        return None
    return [Sample(tuple(s["tokens"]), tuple(s["logprobs"]), s["finished"]) for s in saved["samples"]]


def _write_pending(pending: Path | None, keys: list[list[int]], samples: list[Sample]) -> None:
    if pending is None:
        return
    content = {"keys": keys, "samples": [vars(s) for s in samples]}
    write_atomically(pending, json.dumps(content))
