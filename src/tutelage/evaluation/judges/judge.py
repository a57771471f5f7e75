"""A language model as judge: InFoBench's decomposed yes/no questions, asked over any OpenAI-compatible endpoint.

All questions about one response are one conversation in their given order, so the judge sees its earlier answers;
different responses are judged at the same time. Every answer is kept on disk as it comes (`chat_client.py`), so a
killed run goes on where it stopped and a second run costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from tutelage.common.errors import TutelageError
from tutelage.common.files import write_atomically
from tutelage.evaluation.judges.chat_client import ChatClient, ChatReply
from tutelage.evaluation.judges.endpoint import JudgeEndpoint

Progress = Callable[[int, int], None]  # (responses judged, responses in all)
JudgeChat = list[tuple[str | None, ChatReply]]  # a question's verdict and what came, in the questions' order

REPORT_FILE = "judge-report.json"


@dataclass(frozen=True)
class JudgeItem:
    """One response and its questions. As in the benchmark's own evaluation, the judge is not shown the instruction."""

    id: str
    instruction: str
    input: str
    response: str
    questions: Sequence[str]


@dataclass(frozen=True)
class Unscored:
    """A question without a verdict."""

    id: str  # the item's
    number: int  # the question's, from 1
    question: str
    text: str | None  # what the judge wrote; None: nothing came
    reason: str


@dataclass(frozen=True)
class Judgement:
    answers: list[list[str | None]]  # "yes", "no" or None (unscored), an item, a question
    texts: list[list[str | None]]  # what the judge wrote, likewise
    unscored: list[Unscored] = field(default_factory=list)
    asked: int = 0  # answers that came over the network in this run
    cached: int = 0  # answers that lay on disk
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
    """`judge`'s answers alone; the rest is written to `judge-report.json` in the endpoint's cache folder."""
    judgement = judge(endpoint, items, progress)
    write_report(judgement, endpoint.folder)
    return judgement.answers


def judge(endpoint: JudgeEndpoint, items: Sequence[JudgeItem], progress: Progress | None = None) -> Judgement:
    """Ask every question of every item.

    A question is *unscored* (None, and listed) when its answer is neither yes nor no, when the endpoint refuses it, or
    when no whole answer comes after all retries; the item's later questions, whose context is then missing, are
    unscored too in the last two cases.
    Raises TutelageError when the endpoint cannot be used (wrong key, unknown model, nothing listening, quota used up,
    several requests in a row without an answer), and for a doubled id; what was answered until then stays on disk.
    """
    _check(items)
    client = ChatClient(endpoint)
    conversations: list[JudgeChat] = [[] for _ in items]
    todo: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, JudgeChat | BaseException]] = SimpleQueue()
    for row in range(len(items)):
        todo.put(row)
    arguments = (client, endpoint.rules, items, todo, done)
    try:
        for _ in range(min(max(1, endpoint.concurrency), len(items))):
            # daemons, so that neither an error nor a Ctrl-C waits for answers that nobody will read
            Thread(target=_work, args=arguments, daemon=True).start()
        for count in range(1, len(items) + 1):
            row, found = done.get()
            if isinstance(found, BaseException):
                raise found
            conversations[row] = found
            if progress is not None:
                progress(count, len(items))
        client.check_anything_came()
    finally:
        client.stop()
    return _judgement(items, conversations, client)


def write_report(judgement: Judgement, folder: Path) -> Path:
    """Write counts and the unscored questions with the judge's words to `judge-report.json`, atomically."""
    content = {
        "summary": judgement.summary,
        "asked": judgement.asked,
        "cached": judgement.cached,
        "retried": judgement.retried,
        "unscored": [asdict(one) for one in judgement.unscored],
    }
    return write_atomically(folder / REPORT_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def first_message(rules: str, input_text: str, response: str, question: str) -> str:
    """The conversation's opening, laid out as in the benchmark's evaluation: rules, input if any, text, question."""
    shown = f'Input:\n"{input_text}"\n\n' if input_text else ""
    return f'{rules}\n\n{shown}Generated Text:\n"{response}"\n\nQuestion:\n{question}\n'


def read_answer(text: str) -> str | None:
    """ "yes", "no", or None for anything else.

    The first word decides, whatever its case and markup. Failing that, "the answer is yes" (or no), or exactly one of
    the words YES and NO in capitals. Thoughts before `</think>` do not count.
    """
    text = visible(text)
    first = re.match(r"[\W_]*(?:(?:the |my |final )*answer(?: is)?[\W_]*)?(yes|no)(?![^\W_]|['’-]\w)", text, re.I)
    if first:
        both = re.match(r"[\W_]*(?:and|or|/)\s*(?:yes|no)\b", text[first.end() :], re.I)
        return None if both else first[1].lower()
    said = {word.lower() for word in re.findall(r"\banswer(?: is|:)[\W_]*(yes|no)\b", text, re.I)}
    said = said or {word.lower() for word in re.findall(r"\b(YES|NO)\b", text)}
    return said.pop() if len(said) == 1 else None


def visible(text: str) -> str:
    """A reply without the thoughts that a reasoning model puts before it; empty when the thoughts never end."""
    text = text.strip()
    if "</think>" in text:
        return text.rpartition("</think>")[2].strip()
    return "" if text.startswith("<think>") else text


def _work(
    client: ChatClient,
    rules: str,
    items: Sequence[JudgeItem],
    todo: SimpleQueue[int],
    done: SimpleQueue[tuple[int, JudgeChat | BaseException]],
) -> None:
    """Judge items until none is left; an error is handed over and ends the thread."""
    while True:
        try:
            row = todo.get_nowait()
        except Empty:
            return
        try:
            done.put((row, _judge_item(client, rules, items[row])))
        except BaseException as error:
            done.put((row, error))
            return


def _judge_item(client: ChatClient, rules: str, item: JudgeItem) -> JudgeChat:
    """The verdicts and replies of one item's questions, one after the other."""
    messages: list[dict[str, str]] = []
    found: JudgeChat = []
    unanswered = 0  # the number of the question that got no answer: a conversation cannot go on from there
    for number, question in enumerate(item.questions, 1):
        if unanswered:
            found.append((None, ChatReply(None, f"not asked, because question {unanswered} got no answer")))
            continue
        content = f"{question}\n" if number > 1 else first_message(rules, item.input, item.response, question)
        messages.append({"role": "user", "content": content})
        reply = client.ask(messages, whole=lambda text: read_answer(text) is not None)
        said = visible(reply.text or "")
        messages.append({"role": "assistant", "content": said})
        unanswered = 0 if said else number
        found.append((read_answer(said), reply))
    return found


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
