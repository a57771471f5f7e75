"""The order in which runs are started."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tutelage.runs import scheduler
from tutelage.runs.scheduler import Resources, Scheduler


@dataclass
class Piece:
    """The parts of a run that `Scheduler` reads."""

    fingerprint: str
    hours: float
    parents: list[Piece] = field(default_factory=list)
    done: bool = False
    training: None = None
    folder: Path = Path("nowhere")
    kind: str = "sft"

    @property
    def stage(self) -> str:
        return self.fingerprint


def order(monkeypatch: pytest.MonkeyPatch, pieces: list[Piece], **options: Any) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(scheduler, "attempt", lambda run, *_: seen.append(run.fingerprint))
    Scheduler(Resources(), **options).execute(pieces)  # type: ignore[arg-type]
    return seen


def test_the_longest_chain_goes_first(monkeypatch: pytest.MonkeyPatch):
    base = Piece("base", 1.0)
    short = [Piece(f"short{i}", 0.1, [base]) for i in range(3)]
    sft = Piece("sft", 0.5, [base])
    gkd = Piece("gkd", 2.0, [sft])
    score = Piece("score", 0.1, [gkd])
    pieces = [*short, score]
    hours = {"hours": lambda run: run.hours}
    assert order(monkeypatch, pieces, **hours)[:3] == ["base", "sft", "gkd"]
    gkd.hours, short[2].hours = 0.1, 9.0
    assert order(monkeypatch, pieces, **hours)[:3] == ["base", "short2", "sft"]


def test_without_hours_the_chain_of_most_runs(monkeypatch: pytest.MonkeyPatch):
    base = Piece("base", 1.0)
    alone = Piece("alone", 9.0, [base])
    chain = Piece("third", 0.1, [Piece("second", 0.1, [Piece("first", 0.1, [base])])])
    assert order(monkeypatch, [alone, chain])[1] == "first"


def test_what_is_done_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    done = Piece("done", 100.0, done=True)
    pieces = [Piece("a", 0.1, [done]), Piece("b", 1.0)]
    assert order(monkeypatch, pieces, hours=lambda run: run.hours) == ["b", "a"]
