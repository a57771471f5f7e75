"""The response of each example: the data's, or a sample of the current student (λ, eq. 1).

The choice is drawn per example, from a number keyed by (seed, epoch, example). So it depends neither on the batch size,
nor on the number of ranks, nor on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tutelage.common.checksums import read_one, seal
from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.common.hashing import keyed_integer, keyed_uniform
from tutelage.common.types import Author, Sample, TokenSequence
from tutelage.data.teacher_prompts import teacher_view
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.sampler import Sampler


@dataclass(frozen=True)
class RolloutPlan:
    """How on-policy responses are sampled."""

    on_policy: float  # λ: the probability of an on-policy response, per example
    sampling: SamplingConfig
    seed: int
    max_length: int  # tokens of prompt and response together
    known_tokens: int | None = None  # rows of the teacher's embedding; a sampled id beyond them is an error
    teacher_context: int | None = None  # tokens that the teacher reads, of its own rendering of prompt and response


def is_on_policy(plan: RolloutPlan, epoch: int, index: int, part: int = 0) -> bool:
    """Draw whether the student writes the response of example `index` in this epoch (probability λ).

    `part`: the number of the sequence, of a row that is several.
    """
    return keyed_uniform("author", plan.seed, epoch, index, *_part(part)) < plan.on_policy


def _part(part: int) -> list[int]:
    """What the number of a sequence adds to the keys of its row: nothing for the first, so that those of rows with one
    sequence are what they always were."""
    return [part] if part else []


def write_responses(
    plan: RolloutPlan,
    examples: Sequence[TokenSequence],
    epoch: int,
    step: int,
    sampler: Sampler | None,
    pending: Path | None,
) -> list[TokenSequence]:
    """The examples of one optimizer batch; those drawn as on-policy get a response sampled by the student.

    The samples are stored in the file `pending`, one per step, so that a killed run that resumes from an earlier
    checkpoint trains on the same responses. Raises TutelageError for a sampled token that the teacher does not know.
    """
    chosen = [i for i, e in enumerate(examples) if is_on_policy(plan, epoch, e.index, e.part)]
    if not chosen or sampler is None:
        return list(examples)
    prompts = [examples[i].ids[: examples[i].prompt_length].tolist() for i in chosen]
    keys = [[step, examples[i].index, *_part(examples[i].part)] for i in chosen]
    samples = _read_pending(pending, keys)
    if samples is None:
        longest = plan.max_length - min(len(p) for p in prompts)
        samples = sampler.sample(
            prompts,
            max_new_tokens=max(1, min(plan.sampling.max_new_tokens, longest)),
            temperature=plan.sampling.temperature,
            top_p=plan.sampling.top_p,
            seeds=[keyed_integer("sample", plan.seed, *key) for key in keys],
        )
        _refuse_unknown_tokens(plan, samples)
        _write_pending(pending, keys, samples)
    out = list(examples)
    for i, sample in zip(chosen, samples, strict=True):
        out[i] = with_response(examples[i], sample, _longest(plan, examples[i]))
    return out


def _longest(plan: RolloutPlan, example: TokenSequence) -> int:
    """The most tokens of prompt and response: less than `max_length` where the teacher's own prompt is longer."""
    if plan.teacher_context is None:
        return plan.max_length
    longer = teacher_view(example).prompt_length - example.prompt_length
    return min(plan.max_length, plan.teacher_context - longer)


def _refuse_unknown_tokens(plan: RolloutPlan, samples: Sequence[Sample]) -> None:
    highest = max((token for sample in samples for token in sample.tokens), default=0)
    if plan.known_tokens is not None and highest >= plan.known_tokens:
        raise TutelageError(
            f"the student wrote token {highest}, and the teacher knows only {plan.known_tokens}: cut the student's "
            "embeddings to the tokenizer's size, or choose a teacher with as many tokens"
        )


def with_response(example: TokenSequence, sample: Sample, max_length: int, author: Author = "student") -> TokenSequence:
    """The example's prompt followed by a sampled response, cut at `max_length` tokens; loss on that response only."""
    prompt = example.ids[: example.prompt_length]
    tokens = sample.tokens[: max(1, max_length - len(prompt))]
    ids = torch.cat([prompt, torch.tensor(tokens, dtype=torch.int64)])
    mask = torch.arange(len(ids)) >= len(prompt)
    cut = not sample.finished or len(tokens) < len(sample.tokens)
    prompts = None
    if example.teacher_prompts is not None:
        view = teacher_view(example)
        prompts = (view.ids[: view.prompt_length],)
    return replace(
        example, ids=ids, loss_mask=mask, author=author, cut=cut, teacher_prompts=prompts, turns=example.turns[-1:]
    )


def _read_pending(pending: Path | None, keys: list[list[int]]) -> list[Sample] | None:
    if pending is None or not pending.is_file():
        return None
    saved = read_one(pending)
    if saved is None or saved["keys"] != keys:
        return None
    return [Sample(tuple(s["tokens"]), tuple(s["logprobs"]), s["finished"]) for s in saved["samples"]]


def _write_pending(pending: Path | None, keys: list[list[int]], samples: list[Sample]) -> None:
    if pending is None:
        return
    content = {"keys": keys, "samples": [vars(s) for s in samples]}
    write_atomically(pending, seal(content))
