"""What a teacher is to the trainer, and to a teacher that is not in the training process.

The trainer asks a `Teacher` for the signals of a step's micro-batches. A teacher elsewhere (`served.py`, `openai.py`,
`cached.py`) is a `Source`, which answers a `Question`: plain sequences in the teacher's own token ids, whatever the
student's layout. `asked.py` makes a `Teacher` of it: it asks ahead, while the student computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from tutelage.common.types import Head, MicroBatch, Signal, TokenSequence, TopLogprobs
from tutelage.data.batch import make_micro_batch
from tutelage.data.teacher_prompts import teacher_view

Answer = Tensor | TopLogprobs  # hidden states [N, D], or the likeliest tokens; in CPU memory or on the device
Pair = tuple[int, int]  # two token ids whose meanings are exchanged: the ends of turn of teacher and student


class Teacher(Protocol):
    """A frozen model that teaches."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        ...

    def signal(self, batch: MicroBatch) -> Signal:
        """The signal at the batch's predicting positions, on the batch's device."""
        ...

    def signals(self, batches: Sequence[MicroBatch]) -> Iterator[Signal]:
        """The signals of micro-batches that are wanted one after the other."""
        ...

    def expect(self, sequences: Sequence[TokenSequence], tokens: int) -> None:
        """These sequences will be in the next micro-batches, of about `tokens` tokens; it may begin with them now."""
        ...


class Source(Protocol):
    """A model that answers questions, from several threads at a time if `ahead` is more than 0."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        ...

    @property
    def ahead(self) -> int:
        """How many questions to have on their way while an answer is being used."""
        ...

    def head(self) -> Head | None:
        """The output layer that belongs to its hidden states; None if it answers with TopLogprobs."""
        ...

    def answer(self, question: Question) -> Answer:
        """Hidden states or likeliest tokens at the question's positions, in their order."""
        ...


@dataclass(frozen=True)
class Question:
    """Sequences of token ids, and the positions whose next token the teacher is to predict; in CPU memory."""

    ids: Tensor  # int64 [T], the sequences one after the other
    lengths: tuple[int, ...]  # tokens of each
    predict: Tensor  # int64 [N], ascending: indices of `ids`

    def parts(self) -> list[Question]:
        """One question per sequence."""
        starts = [0, *accumulate(self.lengths)]
        cuts = torch.searchsorted(self.predict, torch.tensor(starts)).tolist()
        return [
            Question(self.ids[a:b], (b - a,), self.predict[c:d] - a)
            for (a, b), (c, d) in zip(pairwise(starts), pairwise(cuts), strict=True)
        ]

    def key(self) -> str:
        """A hash of everything in it."""
        digest = hashlib.sha256(repr(self.lengths).encode())
        for tensor in (self.ids, self.predict):
            digest.update(tensor.to(torch.int32).numpy().tobytes())
        return digest.hexdigest()[:32]

    def exchanged(self, pair: Pair | None) -> Question:
        """The question with two token ids exchanged."""
        return self if pair is None else replace(self, ids=exchanged_ids(self.ids, pair))

    def batch(self, padded: bool, pad_id: int = 0) -> MicroBatch:
        """The micro-batch in which a model reads it."""
        parts = self.parts()
        masks = [torch.zeros(part.lengths[0], dtype=torch.bool) for part in parts]
        for mask, part in zip(masks, parts, strict=True):
            mask[part.predict + 1] = True
        sequences = [TokenSequence(i, part.ids, masks[i], 0) for i, part in enumerate(parts)]
        return make_micro_batch(sequences, [0.0] * len(sequences), padded, pad_id)


def question_of(batch: MicroBatch) -> Question:
    """What a micro-batch asks its teacher, in the student's token ids."""
    read = batch if batch.teacher is None else batch.teacher
    read = read if read.host is None else read.host
    ids, predict = read.input_ids.cpu(), read.predict.cpu()
    if read.attention_mask is None:
        return Question(ids[0], read.lengths, predict)
    starts = torch.tensor([0, *accumulate(read.lengths)])
    row, column = predict // ids.shape[1], predict % ids.shape[1]
    joined = torch.cat([ids[i, :length] for i, length in enumerate(read.lengths)])
    return Question(joined, read.lengths, starts[row] + column)


def question_of_sequence(sequence: TokenSequence) -> Question:
    """What a sequence alone asks its teacher, in the student's token ids."""
    view = teacher_view(sequence)
    return Question(view.ids, (len(view.ids),), view.loss_mask[1:].nonzero().squeeze(-1))


def joined(questions: Sequence[Question]) -> Question:
    """Several questions as one."""
    lengths = tuple(length for question in questions for length in question.lengths)
    starts = [0, *accumulate(len(question.ids) for question in questions)]
    predict = [question.predict + start for question, start in zip(questions, starts, strict=False)]
    return Question(torch.cat([question.ids for question in questions]), lengths, torch.cat(predict))


def split(answer: Answer, counts: Sequence[int]) -> list[Answer]:
    """The answers to questions that were joined, of so many positions each."""
    if isinstance(answer, Tensor):
        return list(answer.split(list(counts)))
    columns = zip(*(getattr(answer, name).split(list(counts)) for name in vars(answer)), strict=True)
    return [TopLogprobs(*column) for column in columns]


def concatenated(answers: Sequence[Answer]) -> Answer:
    """Answers of one kind one after the other."""
    first = answers[0]
    if isinstance(first, Tensor):
        return torch.cat([answer for answer in answers if isinstance(answer, Tensor)])
    return TopLogprobs(*(torch.cat([getattr(answer, name) for answer in answers]) for name in vars(first)))


def moved(answer: Answer, device: torch.device) -> Answer:
    """The answer on a device. A copy to the CPU is whole when it is given: the host reads it without asking the GPU."""
    ahead = device.type != "cpu"
    if isinstance(answer, Tensor):
        return answer.to(device, non_blocking=ahead)
    return TopLogprobs(*(column.to(device, non_blocking=ahead) for column in vars(answer).values()))


def exchanged_ids(ids: Tensor, pair: Pair) -> Tensor:
    a, b = pair
    return torch.where(ids == a, b, torch.where(ids == b, a, ids))
