"""Replies of several models to the same example, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tutelage.evaluation.readers.thoughts import read_reply
from tutelage.evaluation.records import ExampleRecord, example_name


@dataclass(frozen=True)
class Side:
    """One model's evaluation, as a column of the page."""

    label: str
    records: Mapping[str, ExampleRecord]  # by example id
    color: str = ""


@dataclass(frozen=True)
class Reply:
    """One model's reply to an example."""

    label: str
    color: str
    thought: str  # before the answer; empty for most models
    answer: str  # what was scored
    unended: bool  # the thought does not end, so there is no answer
    score: float | None  # 0..100; None: unscored
    finished: bool
    reason: str


@dataclass(frozen=True)
class ExampleView:
    """One example as the page shows it."""

    name: str
    why: str  # it was chosen
    prompt: str
    references: tuple[str, ...]
    replies: tuple[Reply, ...]


def example_view(id: str, why: str, sides: Sequence[Side], metric: str, data: str = "") -> ExampleView:
    """Example `id` of the rows of `data`, with the reply of every side and its score by `metric`."""
    records = [side.records[id] for side in sides]
    replies = [_reply(side, record, metric) for side, record in zip(sides, records, strict=True)]
    return ExampleView(example_name(id, data), why, records[0].prompt, records[0].references, tuple(replies))


def extremes(gains: Mapping[str, float], count: int) -> tuple[list[str], list[str]]:
    """Ids of the `count` largest gains and of as many largest losses (gains below 0); ties in the order of `gains`."""
    known = [id for id, gain in gains.items() if not math.isnan(gain)]
    best = [id for id in sorted(known, key=lambda id: -gains[id]) if gains[id] > 0]
    worst = [id for id in sorted(known, key=lambda id: gains[id]) if gains[id] < 0]
    return best[:count], worst[:count]


def lowest(scores: Mapping[str, float], count: int) -> list[str]:
    """Ids of the `count` lowest scores (0..100) that are not full ones; ties in the order of `scores`."""
    return sorted((id for id, score in scores.items() if score < 100), key=lambda id: scores[id])[:count]


def _reply(side: Side, record: ExampleRecord, metric: str) -> Reply:
    score = record.scores.get(metric)
    percent = None if score is None else 100 * score
    found = read_reply(record.response)
    thought = found.text[: found.start]
    return Reply(side.label, side.color, thought, found.answer, found.unended, percent, record.finished, record.reason)
