"""What every benchmark is made of: items to answer, replies to score, and a frozen object that knows how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import example_seed
from tutelage.common.types import Message
from tutelage.evaluation.benchmarks.summary import summarise
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.records import ExampleRecord


@dataclass(frozen=True)
class Item:
    """One example of a benchmark."""

    id: str
    prompt: str  # the question alone, for people and for the evidence
    targets: tuple[str, ...]
    row: Mapping[str, Any]  # the benchmark's own row
    group: str = ""
    chance: float | None = None  # the score of guessing, where there is one


@dataclass(frozen=True)
class Prompt:
    """What a model is given: chat messages or plain text, and how the reply begins."""

    messages: tuple[Message, ...] = ()
    text: str = ""  # for models without a chat template
    prefix: str = ""  # the first words of the reply, written for the model


NO_ROOM = -1


@dataclass(frozen=True)
class Reply:
    """What a model, ours or another, answered to one item."""

    text: str
    finished: bool = True
    tokens: int = 0
    shots: int | None = None  # solved examples in the prompt; NO_ROOM: the prompt did not fit
    judgements: tuple[str | None, ...] | None = None  # InFoBench: "yes", "no" or None for each question
    likelihoods: tuple[float, ...] | None = None  # ARC: the log-likelihood of each option
    comet: float | None = None  # FLORES: COMET's score of the reply, 0..1


@dataclass(frozen=True)
class Scored:
    """A benchmark's judgement of one reply."""

    scores: dict[str, float | None]
    answer: str | None
    reason: str
    parts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark. Subclasses say where the rows come from, what a model is asked and how a reply is scored."""

    name: str
    metrics: ClassVar[Mapping[str, Metric]]
    headline: ClassVar[str]
    max_new_tokens: ClassVar[int] = 1024
    shots: ClassVar[int] = 0
    may_be_shown: ClassVar[bool] = True  # its texts may stand on a page
    stop: ClassVar[tuple[str, ...]] = ()  # a plain-text reply is cut before these; chat models end their turns
    _memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # what is costly to make twice

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        """All items, in the order of the data."""
        raise NotImplementedError

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        """What a model is asked, with `shots` solved examples before it."""
        raise NotImplementedError

    def judge(self, item: Item, reply: Reply) -> Scored:
        """The verdict on one reply; a score is 0..1, None where there is nothing to score by."""
        raise NotImplementedError

    def judge_all(self, items: Sequence[Item], replies: Sequence[Reply]) -> list[Scored]:
        """The verdicts on many replies, for benchmarks where that is quicker than one at a time."""
        return [self.judge(item, reply) for item, reply in zip(items, replies, strict=True)]

    def options(self, item: Item) -> list[tuple[str, str]]:
        """(context, continuation) pairs whose likelihoods are compared; none for most benchmarks."""
        return []

    def load(self, data_dir: Path | None, limit: int | None = None, seed: int = 0) -> list[Item]:
        """The items to answer: all, or `limit` of them drawn by `seed`, evenly from the groups.

        Raises TutelageError where the data cannot be found or read, or two items share an id.
        """
        items = self.items(data_dir, seed)
        seen: set[str] = set()
        for item in items:
            if item.id in seen:
                raise TutelageError(
                    f"{self.name}: the data hold the id `{item.id}` twice; take the file from its source"
                )
            seen.add(item.id)
        return items if limit is None else draw_evenly(items, limit, seed)

    def score(self, items: Sequence[Item], replies: Mapping[str, Reply]) -> list[ExampleRecord]:
        """Records of the items that have a reply, in the order of the items."""
        items = [item for item in items if item.id in replies]
        answered = [replies[item.id] for item in items]
        records = []
        for item, reply, verdict in zip(items, answered, self.judge_all(items, answered), strict=True):
            records.append(
                ExampleRecord(
                    id=item.id,
                    prompt=item.prompt,
                    response=reply.text,
                    references=item.targets,
                    scores=verdict.scores,
                    answer=verdict.answer,
                    reason=verdict.reason,
                    finished=reply.finished,
                    tokens=reply.tokens,
                    group=item.group,
                    parts=verdict.parts,
                )
            )
        return records

    def summarise(self, records: Sequence[ExampleRecord]) -> dict[str, Any]:
        """{"task", "n", "unscored", "metrics": {name: {"value", "stderr"}}, "groups": {…}}, values 0..100."""
        return summarise(self.name, records, self.metrics, self.headline)

    def conceal(self, text: str) -> str:
        """How a prompt or a reply is written to disk; as it is, but for GPQA."""
        return text

    def reveal(self, text: str) -> str:
        """The inverse of `conceal`, for replies read back."""
        return text


def draw_evenly(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """`limit` items in their own order: the groups take turns, each giving its items in a random order of `seed`."""
    ranks: dict[str, int] = {}
    turns: list[tuple[int, int, int]] = []
    for place in sorted(range(len(items)), key=lambda place: example_seed(seed, items[place].id)):
        group = items[place].group
        ranks[group] = ranks.get(group, -1) + 1
        turns.append((ranks[group], example_seed(seed, items[place].id), place))
    chosen = sorted(place for _, _, place in sorted(turns)[:limit])
    return [items[place] for place in chosen]


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)
