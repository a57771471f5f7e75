"""The teacher's answers for SeqKD: k samples a prompt, written once before training, and what is trained on of them.

They are a run of their own, so that a search over learning rates does not have them written again. Lines are only ever
appended; each sample has a seed of its own from (seed, row, number), so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.common.hashing import keyed_integer
from tutelage.common.progress import Progress
from tutelage.common.types import Conversation, Message, Sample, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.training.on_policy import continued

FILE = "answers.jsonl"
_BATCHES = 4  # sampler batches a write; prompts of like length then go together


@dataclass(frozen=True)
class Answer:
    """One sample of the teacher. `tokens` end with the token that ended it, if it ended by itself."""

    row: int
    number: int  # which of the k samples of this row
    tokens: tuple[int, ...]
    text: str
    finished: bool


def write_answers(
    folder: Path,
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    sampler: Sampler,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Answer]:
    """k answers to every conversation's prompt, in `folder`; goes on after those that stand there already."""
    path = folder / FILE
    done = read_answers(folder)
    _keep_whole_lines(path, len(done))
    todo = [(row, k) for row in range(len(conversations)) for k in range(samples_per_prompt)][len(done) :]
    if progress is not None:
        progress.restore(len(done))
    size = sampling.batch_size * _BATCHES
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(todo), size):
            chosen = todo[start : start + size]
            asked = sorted({row for row, _ in chosen})
            encoded = template.encode_prompts([conversations[row].prompt for row in asked])
            prompts = dict(zip(asked, encoded, strict=True))
            samples = sampler.sample(
                [prompts[row] for row, _ in chosen],
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seeds=[keyed_integer("answer", seed, row, k) for row, k in chosen],
            )
            for (row, k), sample in zip(chosen, samples, strict=True):
                done.append(Answer(row, k, sample.tokens, template.decode(sample.tokens), sample.finished))
                file.write(json.dumps(vars(done[-1]), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            if progress is not None:
                progress.advance(len(chosen))
    return done


def read_answers(folder: Path) -> list[Answer]:
    """The whole lines of an answers file; a last one that a kill cut short is left out."""
    return [
        Answer(line["row"], line["number"], tuple(line["tokens"]), line["text"], line["finished"])
        for line in _lines(folder / FILE)
    ]


def answer_summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts for the result file."""
    return {
        "prompts": len({answer.row for answer in answers}),
        "samples": len(answers),
        "distinct": len({(answer.row, answer.tokens) for answer in answers}),
        "cut": sum(not answer.finished for answer in answers),
        "tokens": sum(len(answer.tokens) for answer in answers),
    }


def answered(
    examples: Sequence[TokenSequence],
    rows: Sequence[int],
    answers: Sequence[Answer],
    end_id: int,
    teacher_ends: Sequence[int],
    max_length: int,
) -> list[TokenSequence]:
    """The examples with the teacher's answers in place of their own: each distinct answer once, weighted by its number.

    `rows[i]` is the row that example i was made of. Loss falls on the answer alone, also where earlier turns of the
    conversation are the assistant's. Whatever ended the teacher's turn is replaced by `end_id`, the student's end.
    """
    found: dict[int, Counter[Sample]] = {}
    for answer in answers:
        tokens = answer.tokens
        if answer.finished and tokens and tokens[-1] in teacher_ends:
            tokens = (*tokens[:-1], end_id)
        found.setdefault(answer.row, Counter())[Sample(tokens, (), answer.finished)] += 1
    out: list[TokenSequence] = []
    for example, row in zip(examples, rows, strict=True):
        for sample, copies in found.get(row, Counter()).items():
            written = continued(example, sample, max_length, "teacher")
            out.append(replace(written, weight=float(copies)))
    return out


def retokenised(
    answers: Sequence[Answer], template: ChatTemplate, conversations: Sequence[Conversation]
) -> list[Answer]:
    """The answers in the tokens of another tokenizer, by way of their text, for a teacher of another family."""
    out = []
    for answer in answers:
        turns = (*conversations[answer.row].prompt, Message("assistant", answer.text))
        sequence = template.encode(Conversation("", turns), 0, sys.maxsize)
        tokens = sequence.ids[sequence.prompt_length :].tolist()
        out.append(replace(answer, tokens=tuple(tokens if answer.finished else tokens[:-1])))
    return out


def _keep_whole_lines(path: Path, count: int) -> None:
    """Cut off what a kill left of line `count` (from 0)."""
    if path.is_file():
        with path.open("rb+") as file:
            for _ in range(count):
                file.readline()
            file.truncate(file.tell())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)
