"""One unit of work: a stage with its seed, settings and inputs resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.common.run_folder import is_done
from tutelage.recipe.sections import DataConfig, ModelConfig, TrainingConfig

# Raised by hand whenever the code changes what a stage computes; results made before are then not reused.
METHOD_VERSION = 5


@dataclass(frozen=True)
class Run:
    """One unit of work: everything a worker needs, picklable."""

    stage: str
    kind: str  # a stage's kind, or `answers` (the teacher's samples for a seqkd stage)
    seed: int
    folder: Path  # holds `result.json` once it is done
    fingerprint: str
    base: Path  # folder that relative data paths start from
    device: str
    spec: Any  # the stage's config (TaskConfig for evaluate)
    training: TrainingConfig | None
    data: dict[str, DataConfig]  # every data section it reads
    models: dict[str, ModelConfig]  # by role: student, teacher, generator, annotator, model
    parents: tuple[Run, ...] = ()
    task: str = ""  # evaluate: the task's name
    subject: str = ""  # evaluate: whose answers

    @property
    def done(self) -> bool:
        return is_done(self.folder)


def with_parents(runs: Sequence[Run]) -> list[Run]:
    """Each run once, parents before children."""
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.fingerprint not in ordered:
            for parent in run.parents:
                visit(parent)
            ordered[run.fingerprint] = run

    for run in runs:
        visit(run)
    return list(ordered.values())


def made_from(run: Run) -> list[Run]:
    """The run and everything it builds on, parents first, each once."""
    ordered: dict[str, Run] = {}

    def visit(one: Run) -> None:
        if one.fingerprint not in ordered:
            for parent in one.parents:
                visit(parent)
            ordered[one.fingerprint] = one

    visit(run)
    return list(ordered.values())
