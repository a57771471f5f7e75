"""A language model as judge: InFoBench's yes/no questions about responses, asked at any OpenAI-compatible endpoint.

All questions about one response form one conversation, in their given order, so the judge sees its earlier answers;
several responses are judged at the same time. Every answer is written to disk when it arrives (`chat_client.py`): a
killed run continues where it stopped, and a second run asks nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.evaluation.judges.chat_client import ChatClient
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.judges.protocol import JudgeChat, ask_questions

Progress = Callable[[int, int], None]  # (responses judged, responses in all)

REPORT_FILE = "judge-report.json"


@dataclass(frozen=True)
class JudgeItem:
    """One response and its questions. The judge does not see the instruction, as in the benchmark's own evaluation."""

    id: str
    instruction: str
    input: str
    response: str
    questions: Sequence[str]


@dataclass(frozen=True)
class Unscored:
    """A question without a yes or no."""

    id: str  # the item's
    number: int  # the question's, from 1
    question: str
    text: str | None  # what the judge wrote; None: no answer came
    reason: str


@dataclass(frozen=True)
class Judgement:
    """The answers to all questions, and how they were obtained."""

    answers: list[list[str | None]]  # "yes", "no" or None (unscored), per item and question
    texts: list[list[str | None]]  # what the judge wrote, per item and question
    unscored: list[Unscored] = field(default_factory=list)
    asked: int = 0  # answers that the endpoint gave in this run
    cached: int = 0  # answers that were on disk
    retried: int = 0  # requests that were sent again

    @property
    def summary(self) -> str:
        questions = sum(len(row) for row in self.answers)
        return (
            f"{questions} questions: {questions - len(self.unscored)} scored, {len(self.unscored)} unscored; "
            f"{self.asked} asked, {self.cached} from the cache, {self.retried} requests repeated"
        )


def judge_questions(
    endpoint: JudgeEndpoint, items: Sequence[JudgeItem], progress: Progress | None = None
) -> list[list[str | None]]:
    """The answers of `judge`; the rest of its result is written to `judge-report.json` in the endpoint's folder."""
    judgement = judge(endpoint, items, progress)
    write_report(judgement, endpoint.folder)
    return judgement.answers


def judge(endpoint: JudgeEndpoint, items: Sequence[JudgeItem], progress: Progress | None = None) -> Judgement:
    """Ask every question of every item.

    A question is *unscored* (None, and listed) when its answer is neither yes nor no, when the endpoint refuses it, or
    when no complete answer comes after all retries. In the last two cases the item's later questions, whose context is
    then missing, are unscored too. With the benchmark's own decision, an answer that is neither counts as no, and ends
    the conversation.
    Raises TutelageError when the endpoint cannot be used (wrong key, unknown model, no connection, quota used up,
    several requests in a row without an answer), and for a doubled id; answers until then stay on disk.
    """
    _check(items)
    client = ChatClient(endpoint)
    conversations: list[JudgeChat] = [[] for _ in items]
    todo: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, JudgeChat | BaseException]] = SimpleQueue()
    for row in range(len(items)):
        todo.put(row)
    arguments = (client, endpoint, endpoint.wording, items, todo, done)
    try:
        for _ in range(min(max(1, endpoint.concurrency), len(items))):
            # daemons, so that an error or Ctrl-C does not wait for answers that are no longer needed
            Thread(target=_work, args=arguments, daemon=True).start()
        for count in range(1, len(items) + 1):
            row, found = done.get()
            if isinstance(found, BaseException):
                raise found
            conversations[row] = found
            if progress is not None:
                progress(count, len(items))
        client.check_any_answer()
    finally:
        client.stop()
    return _judgement(items, conversations, client)


def write_report(judgement: Judgement, folder: Path) -> Path:
    """Write `judge-report.json`: counts, and the unscored questions with the judge's texts. Atomic."""
    content = {
        "summary": judgement.summary,
        "asked": judgement.asked,
        "cached": judgement.cached,
        "retried": judgement.retried,
        "unscored": [asdict(one) for one in judgement.unscored],
    }
    return write_atomically(folder / REPORT_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _work(
    client: ChatClient,
    endpoint: JudgeEndpoint,
    wording: str,
    items: Sequence[JudgeItem],
    todo: SimpleQueue[int],
    done: SimpleQueue[tuple[int, JudgeChat | BaseException]],
) -> None:
    """Judge items until none is left; an error goes into `done` and ends the thread."""
    while True:
        try:
            row = todo.get_nowait()
        except Empty:
            return
        try:
            item, official = items[row], endpoint.decides_officially
            chat = ask_questions(client.ask, wording, item.input, item.response, item.questions, official)
            done.put((row, chat))
        except BaseException as error:
            done.put((row, error))
            return


def _judgement(items: Sequence[JudgeItem], conversations: Sequence[JudgeChat], client: ChatClient) -> Judgement:
    unscored = [
        Unscored(item.id, number, question, reply.text, reply.reason or "neither yes nor no")
        for item, conversation in zip(items, conversations, strict=True)
        for number, (question, (answer, reply)) in enumerate(zip(item.questions, conversation, strict=True), 1)
        if answer is None
    ]
    return Judgement(
        answers=[[answer for answer, _ in conversation] for conversation in conversations],
        texts=[[reply.text for _, reply in conversation] for conversation in conversations],
        unscored=unscored,
        asked=client.counts["asked"],
        cached=client.counts["cached"],
        retried=client.counts["retried"],
    )


def _check(items: Sequence[JudgeItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise TutelageError(f"the judge was given the id `{item.id}` twice; give every response its own id")
        if not item.questions:
            raise TutelageError(f"`{item.id}` has no questions to judge; leave it out")
        seen.add(item.id)
