"""The teacher's answers for SeqKD: k samples per prompt, written once before training, and the examples made from them.

Writing them is a run of its own, so that a search over learning rates reuses them. Lines are only appended, and each
sample has its own seed from (seed, row, number), so a killed run resumes where it stopped.

Of a conversation that is too long the teacher answers the last question that the student can read, as an on-policy
student does. An answer says how many messages it answers, and is trained on after exactly those.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from tutelage.common.checksums import read_sealed, seal
from tutelage.common.files import write_bytes_atomically
from tutelage.common.hashing import keyed_integer
from tutelage.common.progress import Progress
from tutelage.common.types import Conversation, Message, Sample, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.encode_rows import messages_asked
from tutelage.data.whole_text import MARK
from tutelage.recipe.sections import SamplingConfig
from tutelage.sampling.sampler import Sampler
from tutelage.training.on_policy import with_response

FILE = "answers.jsonl"
_BATCHES = 4  # sampler batches per write, so that the sampler can group prompts of similar length


@dataclass(frozen=True)
class Answer:
    """One sample of the teacher. If `finished`, the last of `tokens` is the token that ended it."""

    row: int  # of the prompt, among the conversations
    number: int  # which of the row's k samples, from 0
    asked: int  # messages of the row that the teacher was given
    tokens: tuple[int, ...]
    text: str  # without tokens that hold a part of a character (`data/whole_text.py`)
    finished: bool
    whole: bool = True  # no such tokens, but for those of a letter that the length limit cut


def write_answers(
    folder: Path,
    questions: Mapping[int, Sequence[Message]],
    template: ChatTemplate,
    sampler: Sampler,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Answer]:
    """Sample `samples_per_prompt` answers to every question into `folder`, after those already there.

    `questions`: the messages to answer, by row. Returns all answers, in the order of `questions`.
    """
    path = folder / FILE
    wanted = [(row, k) for row in questions for k in range(samples_per_prompt)]
    done = read_answers(folder)
    if [(answer.row, answer.number) for answer in done] != wanted[: len(done)]:
        done = []
    _keep_lines(path, len(done))
    todo = wanted[len(done) :]
    if progress is not None:
        progress.restore(len(done))
    size = sampling.batch_size * _BATCHES
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(todo), size):
            chosen = todo[start : start + size]
            asked = sorted({row for row, _ in chosen})
            encoded = template.encode_prompts([questions[row] for row in asked])
            prompts = dict(zip(asked, encoded, strict=True))
            samples = sampler.sample(
                [prompts[row] for row, _ in chosen],
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seeds=[keyed_integer("answer", seed, row, k) for row, k in chosen],
            )
            for (row, k), sample in zip(chosen, samples, strict=True):
                text, count = template.decode(sample.tokens), len(questions[row])
                whole = template.is_text(sample.tokens, sample.finished)
                done.append(Answer(row, k, count, sample.tokens, text, sample.finished, whole))
                file.write(seal(vars(done[-1]), ensure_ascii=False))
            file.flush()
            os.fsync(file.fileno())
            if progress is not None:
                progress.advance(len(chosen))
    return done


def read_answers(folder: Path) -> list[Answer]:
    """The answers in `folder` up to the first line that is cut or damaged, none if there is no file."""
    lines = takewhile(lambda line: line is not None, read_sealed(folder / FILE))
    answers = [Answer(**line) for line in lines if line is not None]
    return [replace(answer, tokens=tuple(answer.tokens)) for answer in answers]


def answer_summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Numbers of prompts, samples, distinct samples, cut samples and tokens, for the result file."""
    return {
        "prompts": len({answer.row for answer in answers}),
        "samples": len(answers),
        "distinct": len({(answer.row, answer.tokens) for answer in answers}),
        "cut": sum(not answer.finished for answer in answers),
        "tokens": sum(len(answer.tokens) for answer in answers),
    }


def answer_examples(
    examples: Sequence[TokenSequence],
    rows: Sequence[int],
    conversations: Sequence[Conversation],
    answers: Sequence[Answer],
    template: ChatTemplate,
    teacher_ends: Sequence[int],
    max_length: int,
) -> tuple[list[TokenSequence], list[str]]:
    """The examples with the teacher's answers as responses: each distinct answer once, weighted by its number.

    `rows[i]`: the row, in `conversations`, that example i was made from; `template`: the student's. The loss is on the
    answer only, even after earlier assistant turns of the conversation. A final token among `teacher_ends` is replaced
    by the student's end of turn. Also returns the sources of the rows left out: those whose question was not asked, and
    those where it does not fit into `max_length` tokens of a student that the plan did not know (on the hub).
    """
    end_id, left_out = template.end_of_turn_id, dict[int, str]()
    asked = {answer.row: answer.asked for answer in answers}
    found: dict[int, Counter[Sample]] = {}
    for answer in answers:
        tokens = answer.tokens
        if answer.finished and tokens and tokens[-1] in teacher_ends:
            tokens = (*tokens[:-1], end_id)
        found.setdefault(answer.row, Counter())[Sample(tokens, (), answer.finished)] += 1
    out: list[TokenSequence] = []
    for place, (example, row) in enumerate(zip(examples, rows, strict=True)):
        if place + 1 < len(rows) and rows[place + 1] == row and examples[place + 1].part > 0:
            continue  # of a row that is several sequences the last question is asked
        if row not in asked:
            left_out[row] = conversations[row].source
            continue
        question = conversations[row].messages[: asked[row]]
        if question != messages_asked(conversations[row], example):  # the student's tokens are cut elsewhere
            ids = template.encode_prompt(question)
            if len(ids) >= max_length:
                left_out[row] = conversations[row].source
                continue
            example = replace(example, ids=torch.tensor(ids), prompt_length=len(ids), turns=(asked[row],))
        for sample, copies in found[row].items():
            written = with_response(example, sample, max_length, "teacher")
            out.append(replace(written, weight=float(copies)))
    return out, list(left_out.values())


def retokenise(
    answers: Sequence[Answer], template: ChatTemplate, conversations: Sequence[Conversation]
) -> list[Answer]:
    """The answers, encoded again from their text by the student's `template`: for a teacher of another tokenizer.

    Without those that are empty or not `whole`, and those with U+FFFD, which an earlier version wrote for cut letters.
    """
    out = []
    for answer in answers:
        if not answer.text or not answer.whole or MARK in answer.text:
            continue
        turns = (*conversations[answer.row].messages[: answer.asked], Message("assistant", answer.text))
        sequence = template.encode(Conversation("", turns), 0, sys.maxsize)
        tokens = sequence.ids[sequence.prompt_length :].tolist()
        out.append(replace(answer, tokens=tuple(tokens if answer.finished else tokens[:-1])))
    return out


def _keep_lines(path: Path, count: int) -> None:
    """Keep the first `count` lines of the file: a kill may have left an incomplete one, the disk a damaged one."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    if len(lines) != count + 1 or lines[-1]:
        if len(lines) > count + 1:
            print(f"{path}: goes on after line {count}, since the next one is cut or damaged", flush=True)
        write_bytes_atomically(path, b"".join(line + b"\n" for line in lines[:count]))
