"""The teacher of a training run that is not in its process: it is asked ahead of its use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tutelage.common.types import Head, MicroBatch, Signal, TeacherSignal, TokenSequence, TopLogprobs
from tutelage.data.batch import group_by_budget
from tutelage.teachers.protocol import (
    Answer,
    Pair,
    Question,
    Source,
    concatenated,
    exchanged_ids,
    joined,
    moved,
    question_of,
    question_of_sequence,
    split,
)

T = TypeVar("T")


class AskedTeacher:
    """A `Teacher` that asks a source: one in another process, on another machine, or on disk.

    `device`: of the student; `student_end_id` and `own_end_id`: the tokens that end turns. Where they differ, the
    source reads and answers in its own ids, and the two are exchanged here, as `exchange_tokens` does in weights.
    """

    def __init__(self, source: Source, device: torch.device, student_end_id: int, own_end_id: int) -> None:
        self.source, self.device = source, device
        self.pair = None if student_end_id == own_end_id else (own_end_id, student_end_id)
        self._asking = threading.Semaphore(max(1, source.ahead))
        self._expected: dict[str, tuple[Future[list[Answer]], int]] = {}  # key of a sequence → answers, its place
        head = source.head()
        self.head = None if head is None else _on_device(head, device, self.pair)

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.source.name

    def expect(self, sequences: Sequence[TokenSequence], tokens: int) -> None:
        """Ask for these sequences now, about `tokens` tokens at a time, and keep the answers until the next call.

        The student samples or waits for others meanwhile. Micro-batches with them ask for the rest alone.
        """
        self._expected = {}
        if self.source.ahead == 0:
            return
        questions = [question_of_sequence(sequence).exchanged(self.pair) for sequence in sequences]
        for group in group_by_budget([len(question.ids) for question in questions], tokens, padded=False):
            asked = [questions[i] for i in group if len(questions[i].predict)]
            if asked:
                future = _later(self._answers, asked)
                self._expected |= {question.key(): (future, place) for place, question in enumerate(asked)}

    def signal(self, batch: MicroBatch) -> Signal:
        """Hidden states and head, or the likeliest tokens, at the batch's predicting positions."""
        return self._signal(self._answer(batch))

    def signals(self, batches: Sequence[MicroBatch]) -> Iterator[Signal]:
        """The same for micro-batches in turn; the first ones are asked for now, the others ahead of their use."""
        if self.source.ahead == 0:
            return map(self.signal, batches)
        first, rest = batches[: self.source.ahead], deque(batches[self.source.ahead :])
        return self._asked(deque(_later(self._answer, one) for one in first), rest)

    def _asked(self, waiting: deque[Future[Answer]], rest: deque[MicroBatch]) -> Iterator[Signal]:
        while waiting:
            answer = waiting.popleft().result()
            if rest:
                waiting.append(_later(self._answer, rest.popleft()))
            yield self._signal(answer)

    def _answers(self, questions: list[Question]) -> list[Answer]:
        with self._asking:
            return split(self.source.answer(joined(questions)), [len(question.predict) for question in questions])

    def _answer(self, batch: MicroBatch) -> Answer:
        question = question_of(batch).exchanged(self.pair)
        found: dict[int, Answer] = {}
        expected, parts = self._expected, question.parts() if self._expected else []
        if expected:
            places = {i: expected[key] for i, part in enumerate(parts) if (key := part.key()) in expected}
            found = {i: future.result()[place] for i, (future, place) in places.items()}
        if found:
            rest = [i for i in range(len(parts)) if i not in found]
            found |= dict(zip(rest, self._answers([parts[i] for i in rest]) if rest else [], strict=True))
            answer = concatenated([found[i] for i in range(len(parts))])
        else:
            with self._asking:
                answer = self.source.answer(question)
        if isinstance(answer, Tensor) and self.device.type == "cuda" and answer.device.type == "cpu":
            return answer.pin_memory()  # so that the copy to the device does not wait for the student
        return answer

    def _signal(self, answer: Answer) -> Signal:
        answer = moved(answer, self.device)
        if isinstance(answer, TopLogprobs):
            return answer if self.pair is None else replace(answer, ids=exchanged_ids(answer.ids, self.pair))
        assert self.head is not None
        return TeacherSignal(answer.to(self.head.weight.dtype), self.head)


def _later(work: Callable[[Any], T], argument: Any) -> Future[T]:
    """The result of `work(argument)`, done in a thread that does not keep the process from ending."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work(argument))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


def _on_device(head: Head, device: torch.device, pair: Pair | None) -> Head:
    weight, bias = (None if t is None else t.to(device, copy=pair is not None) for t in (head.weight, head.bias))
    assert weight is not None
    for table in (weight, bias) if pair is not None else ():
        if table is not None:
            table[list(pair or ())] = table[list(pair or ())[::-1]]
    return replace(head, weight=weight, bias=bias)
