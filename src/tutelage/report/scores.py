"""The results that both reports are made of: one metric of one model on one task, over its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tutelage.common.run_folder import EXAMPLES, RESULT
from tutelage.evaluation.records import ExampleRecord, aligned, read_records
from tutelage.evaluation.statistics import Scores


@dataclass(frozen=True)
class SeedScores:
    """One seed's evaluation."""

    seed: int | None  # None: one run serves all seeds
    folder: Path
    records: tuple[ExampleRecord, ...]


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """One metric of a model on a task. Numbers are 0..100, or as stored where lower is better."""

    metric: str
    value: float = math.nan  # mean over seeds; nan where missing or unscored
    stderr: float = math.nan
    by_seed: tuple[float, ...] = ()
    scores: Scores = field(default_factory=lambda: np.zeros((0, 0)))  # [S, C]: C independent draws per seed
    seeds: tuple[int | None, ...] = ()  # with a score, row by row of `scores`
    unscored_seeds: tuple[int | None, ...] = ()  # with an evaluation in which nothing is scored: no judge, no COMET
    examples: int = 0

    @property
    def is_missing(self) -> bool:
        """Whether it has no score, since no evaluation is there, or since those that are there are unscored."""
        return not self.seeds

    @property
    def is_unscored(self) -> bool:
        """Whether it has evaluations, and no score."""
        return self.is_missing and bool(self.unscored_seeds)


def is_evaluated(folder: Path) -> bool:
    """Whether the folder holds a finished evaluation."""
    return (folder / EXAMPLES).is_file() and (folder / RESULT).is_file()


def read_seeds(folders: Iterable[tuple[int | None, Path]], order: SeedScores | None = None) -> tuple[SeedScores, ...]:
    """The evaluations that are there, of (seed, folder) pairs, all in the example order of `order` or of the first.

    Raises TutelageError when a folder cannot be read, or two are not of the same examples.
    """
    found: list[SeedScores] = []
    for seed, folder in folders:
        if is_evaluated(folder):
            read = SeedScores(seed, folder, tuple(read_records(folder)))
            first = order or next(iter(found), read)
            records = aligned(read.records, first.records, folder, first.folder)
            found.append(SeedScores(seed, folder, tuple(records)))
    return tuple(found)


def seeds_text(seeds: Sequence[int | None], missing: Sequence[int | None]) -> str:
    """ "3", "2 of 3" where some are missing, "none", or "shared" for one run that serves all seeds."""
    if seeds == (None,):
        return "shared"
    return "none" if not seeds else f"{len(seeds)} of {len(seeds) + len(missing)}" if missing else str(len(seeds))
