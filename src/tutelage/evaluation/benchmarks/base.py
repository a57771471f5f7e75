"""What every benchmark is made of: items to answer, prompts, replies, and the object that makes and scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import example_seed
from tutelage.common.types import Message
from tutelage.evaluation.benchmarks.data import HubError, located
from tutelage.evaluation.benchmarks.summary import summarise
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.evaluation.readers.thoughts import NO_ANSWER, Reading, read_reply
from tutelage.evaluation.records import ExampleRecord


@dataclass(frozen=True)
class Item:
    """One example of a benchmark."""

    id: str
    prompt: str  # the question without solved examples, for the record
    targets: tuple[str, ...]
    row: Mapping[str, Any]  # the benchmark's own row
    group: str = ""
    chance: float | None = None  # the score of guessing, 0..1; None: it cannot be guessed


@dataclass(frozen=True)
class Prompt:
    """What a model is given: chat messages or plain text, and the beginning of its reply."""

    messages: tuple[Message, ...] = ()
    text: str = ""  # for models without a chat template
    prefix: str = ""  # of the reply: the model continues it


NO_ROOM = -1  # `Reply.shots` of a question that the model's context has no room for


@dataclass(frozen=True)
class Reply:
    """A reply to one item, by a model that was sampled here or by any other."""

    text: str
    finished: bool = True  # it ended by itself or at a stop, and was not cut at its limit
    tokens: int = 0  # sampled
    shots: int | None = None  # solved examples in the prompt; NO_ROOM: it was not asked
    judgements: tuple[str | None, ...] | None = None  # InFoBench: "yes", "no" or None per question
    likelihoods: tuple[float, ...] | None = None  # ARC: log-likelihood per option
    comet: float | None = None  # FLORES: COMET's score of the reply, 0..1


@dataclass(frozen=True)
class Scored:
    """A benchmark's scores of one reply, 0..1 or None where unscored. The other fields are as in `ExampleRecord`."""

    scores: dict[str, float | None]
    answer: str | None
    reason: str
    parts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark. Subclasses define where its rows come from, what a model is asked and how a reply is scored."""

    name: str
    metrics: ClassVar[Mapping[str, Metric]]
    files: ClassVar[tuple[str, ...]] = ()  # in the data folder
    hub: ClassVar[str] = ""  # the data set on the hub that is read if the folder has none of the files
    headline: ClassVar[str]  # the metric that tables and comparisons show first
    max_new_tokens: ClassVar[int] = 1024
    shots: ClassVar[int] = 0  # solved examples in the prompt
    may_be_shown: ClassVar[bool] = True  # its texts may be published in plain text
    stop: ClassVar[tuple[str, ...]] = ()  # a reply to a plain-text prompt is cut before these
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # objects that are slow to make

    @property
    def reading(self) -> str:
        """The fingerprint of the code that scores its replies."""
        return reading_fingerprint(type(self).__module__)

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        """All items in the order of the data. `data_dir` None: from the hub. `seed` shuffles options where they are."""
        raise NotImplementedError

    def source(self, data_dir: Path | None) -> Path | None:
        """Where the items are read from: `data_dir`, or None, the hub, if it has none of this benchmark's files."""
        if data_dir is None or not self.files:
            return data_dir
        return data_dir if any(located(data_dir, file) for file in self.files) else None

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        """What a model is asked: as chat messages or as plain text, with `shots` solved examples first."""
        raise NotImplementedError

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        """The scores of one reply."""
        raise NotImplementedError

    def score_replies(self, items: Sequence[Item], replies: Sequence[Reply]) -> list[Scored]:
        """The scores of many replies; overridden where that is faster than one at a time."""
        return [self.score_reply(item, reply) for item, reply in zip(items, replies, strict=True)]

    def options(self, item: Item) -> list[tuple[str, str]]:
        """(context, continuation) per option where likelihoods are compared; empty for most benchmarks."""
        return []

    def load(
        self, data_dir: Path | None, limit: int | None = None, seed: int = 0, group: str | None = None
    ) -> list[Item]:
        """The items to answer: all, those of `group`, or `limit` of them, drawn by `seed` evenly from the groups.

        They come from the folder `data_dir`, or from the hub without one or if it has no file of this benchmark.
        Raises TutelageError where the data cannot be found or read, or hold nothing, for a group that no item has, and
        where two items share an id.
        """
        source = self.source(data_dir)
        try:
            items = self.items(source, seed)
        except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:  # a value of another kind
            where = self.hub if source is None else ", ".join(str(source / file) for file in self.files)
            raise TutelageError(
                f"{self.name}: a row of {where} is not as the benchmark's own ({type(error).__name__}: {error}); "
                "take the data from their source again"
            ) from None
        except HubError as error:
            if data_dir is None:
                raise
            raise TutelageError(
                f"{data_dir / self.files[0]} is missing: put the file there (docs/evaluation.md says where it comes "
                f"from); it cannot be read from the hub either: {error}"
            ) from None
        if not items and source is not None:
            raise TutelageError(
                f"{self.name}: {source / self.files[0]} holds no example; take the data from their source again"
            )
        seen: set[str] = set()
        for item in items:
            if item.id in seen:
                raise TutelageError(
                    f"{self.name}: the data hold the id `{item.id}` twice; take the file from its source again"
                )
            seen.add(item.id)
        if group is not None:
            groups = sorted({item.group for item in items})
            items = [item for item in items if item.group == group]
            if not items:
                raise TutelageError(f"{self.name}: no example is in group `{group}` (there are: {', '.join(groups)})")
        return items if limit is None else draw_evenly(items, limit, seed)

    def score(self, items: Sequence[Item], replies: Mapping[str, Reply]) -> list[ExampleRecord]:
        """Records of the items that have a reply, in the order of the items. Thoughts before an answer do not count."""
        items = [item for item in items if item.id in replies]
        given = [replies[item.id] for item in items]
        read = [read_reply(self.reveal(reply.text)) for reply in given]
        answered = [_without_thought(reply, reading) for reply, reading in zip(given, read, strict=True)]
        scores = self.score_replies(items, answered)
        records = []
        for item, reply, reading, scored in zip(items, given, read, scores, strict=True):
            records.append(
                ExampleRecord(
                    id=item.id,
                    prompt=item.prompt,
                    response=reply.text,
                    references=item.targets,
                    scores=scored.scores,
                    answer=scored.answer,
                    reason=f"{NO_ANSWER}; {scored.reason}" if reading.unended else scored.reason,
                    finished=reply.finished,
                    tokens=reply.tokens,
                    group=item.group,
                    parts=scored.parts,
                )
            )
        return records

    def summarise(self, records: Sequence[ExampleRecord]) -> dict[str, Any]:
        """The content of `result.json`: see `summary.summarise`."""
        return summarise(self.name, records, self.metrics, self.headline)

    def conceal(self, text: str) -> str:
        """A prompt or reply as it is written to disk: unchanged except for GPQA."""
        return text

    def reveal(self, text: str) -> str:
        """The inverse of `conceal`, for replies read from disk."""
        return text


def _without_thought(reply: Reply, reading: Reading) -> Reply:
    return replace(reply, text=reading.answer) if reading.thinks else reply


def draw_evenly(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """`limit` items in their own order. The groups take turns; each gives its items in an order drawn by `seed`."""
    ranks: dict[str, int] = {}
    turns: list[tuple[int, int, int]] = []
    for place in sorted(range(len(items)), key=lambda place: example_seed(seed, items[place].id)):
        group = items[place].group
        ranks[group] = ranks.get(group, -1) + 1
        turns.append((ranks[group], example_seed(seed, items[place].id), place))
    chosen = sorted(place for _, _, place in sorted(turns)[:limit])
    return [items[place] for place in chosen]


def user(text: str) -> tuple[Message, ...]:
    """A chat of one user turn."""
    return (Message("user", text),)
