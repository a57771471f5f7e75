"""Evaluation folders read, aligned by example and compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.run_folder import EXAMPLES
from tutelage.evaluation.records import ExampleRecord, aligned, read_records, score_array
from tutelage.evaluation.statistics import Paired, Scores, paired_bootstrap


@dataclass(frozen=True)
class SeedScores:
    """One seed's answers; seed None: one run stands for all seeds."""

    seed: int | None
    folder: Path
    records: tuple[ExampleRecord, ...]


@dataclass(frozen=True)
class Cell:
    """A row's runs on one task, their records in the same order."""

    runs: tuple[SeedScores, ...]
    missing: tuple[int | None, ...]  # seeds whose evaluation is not there

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    def scores(self, metric: str) -> Scores:
        """[S, N] in 0..100, nan where unscored; [0, 0] without runs."""
        if not self.runs:
            return np.zeros((0, 0))
        return 100 * np.stack([score_array(run.records, metric) for run in self.runs])


def load_scores(manifest: dict[str, Any], row: dict[str, Any], task: str, metric: str) -> Scores:
    """A manifest row's scores on a task, [S, N] in 0..1, aligned by example id; nan where unscored.

    S counts the runs whose evaluation is there ([0, 0] if none is). Raises TutelageError when two folders were not
    made from the same examples, or a folder cannot be read.
    """
    return load_cell(manifest, row, task).scores(metric) / 100


def load_cell(manifest: dict[str, Any], row: dict[str, Any], task: str, like: SeedScores | None = None) -> Cell:
    """Read a row's evaluations of a task, in the example order of `like` or of the first folder found."""
    runs: list[SeedScores] = []
    missing: list[int | None] = []
    for run in row["runs"]:
        name = (run.get("evaluations") or {}).get(task)
        folder = Path(manifest["root"]) / name if name else None
        if folder is None or not (folder / EXAMPLES).is_file():
            missing.append(run["seed"])
            continue
        found = SeedScores(run["seed"], folder, tuple(read_records(folder)))
        order = like or (runs[0] if runs else found)
        records = tuple(aligned(found.records, order.records, found.folder, order.folder))
        runs.append(SeedScores(found.seed, found.folder, records))
    return Cell(tuple(runs), tuple(missing))


def compare(left: Cell, right: Cell, metric: str) -> Paired | None:
    """Left minus right in 0..100, or None where either has no runs. Equal lists of seeds are paired."""
    if not left.runs or not right.runs:
        return None
    paired = left.seeds == right.seeds and len(left.seeds) > 1
    return paired_bootstrap(left.scores(metric), right.scores(metric), paired_seeds=paired)
