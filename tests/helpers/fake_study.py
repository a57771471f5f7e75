"""A small study made on the spot: evaluation folders as the benchmarks leave them, with effects that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tutelage.evaluation.records import ExampleRecord, summarise, write_records, write_result
from tutelage.study.plan import Cell

STUDENTS = ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B")
SIZES = (10_000, 80_000, 939_000)
METRICS = {"bbh": "accuracy", "gpqa": "accuracy", "ifeval": "prompt_loose", "infobench": "drfr", "mmlu_pro": "accuracy",
           "flores": "comet", "dialogsum": "rouge_l", "arc_challenge": "accuracy"}  # fmt: skip
GENERAL, DOMAIN = tuple(METRICS)[:5], tuple(METRICS)[5:]
TEACHER, STRONGER = "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.3-70B-Instruct"
Change = Callable[[Cell, list[ExampleRecord]], list[ExampleRecord]]


def level(size: int | None, student: str, method: str) -> float:
    """The mean score that a method is given: GKD helps with little data, Base-S less, a stronger teacher always."""
    start = {10_000: 0.30, 80_000: 0.42, 939_000: 0.50}.get(size or 0, 0.45) + 0.12 * (student == STUDENTS[1])
    gain = {"gkd_sft": {10_000: 0.12, 80_000: 0.05, 939_000: 0.0}.get(size or 0, 0.06),
            "gkd_base": {10_000: 0.04, 80_000: 0.0, 939_000: 0.0}.get(size or 0, 0.0),
            "gkd_it": 0.12, "mix": 0.15, "two_stage": 0.2, "teacher": 0.3}  # fmt: skip
    return min(0.97, start + gain.get(method, 0.0))


def plan(root: Path, seeds: Sequence[int] = (0, 1, 2), general: Sequence[str] = GENERAL) -> list[Cell]:
    """The cells of all figures and tables, none of them evaluated."""
    cells = []

    def add(size: int | None, student: str, method: str, teacher: str | None, tasks: Sequence[str]) -> None:
        for seed in seeds:
            for task in tasks:
                name = f"{method}-{student.split('/')[-1]}-{size}-on-{task}-s{seed}"
                cells.append(Cell(size, student, method, teacher, seed, task, root / name))

    for student in STUDENTS:
        for size in SIZES:
            for method, teacher in (("sft", None), ("gkd_sft", TEACHER), ("gkd_base", TEACHER)):
                add(size, student, method, teacher, general)
        add(SIZES[-1], student, "gkd_it", STRONGER, general)
        add(SIZES[-1], student, "seqkd", TEACHER, general)
        add(None, student, "sft", None, DOMAIN)
        add(None, student, "gkd_sft", TEACHER, DOMAIN)
        for size in (5_000, 100_000):
            add(size, student, "mix", TEACHER, DOMAIN)
            add(size, student, "two_stage", TEACHER, DOMAIN)
    add(None, TEACHER, "teacher", TEACHER, DOMAIN)
    return cells


def evaluate(cell: Cell, count: int = 80, change: Change | None = None) -> None:
    """Write the folder of a cell. Examples are the same for all arms of a task, easy and hard for all alike."""
    task, metric = cell.task, METRICS.get(cell.task, "accuracy")
    hard = np.random.default_rng(list(METRICS).index(task) if task in METRICS else 99).random(count)
    rng = np.random.default_rng(abs(cell.size or 1) + 7 * cell.seed + 1000 * len(cell.method) + len(cell.student))
    mean = level(cell.size, cell.student, cell.method)
    luck = 0.95 * hard + 0.05 * rng.random(count)
    records = []
    for n in range(count):
        score = (
            float(np.clip(mean + 0.3 * (0.5 - luck[n]), 0, 1))
            if metric in ("comet", "rouge_l")
            else float(luck[n] < mean)
        )
        group = f"group {n % 8}" if task in ("bbh", "mmlu_pro") else ""
        records.append(
            ExampleRecord(f"{task}_{n}", f"Question {n} of {task}?", f"{cell.method} says {n}", (f"answer {n}",),
                          {metric: score}, f"{n}", "by rule", True, 8, group)
        )  # fmt: skip
    records = change(cell, records) if change else records
    write_records(cell.folder, records)
    write_result(cell.folder, summarise(records, [metric], metric, task=task, model=cell.method, seed=cell.seed))


def make_study(root: Path, count: int = 80, skip: Callable[[Cell], bool] = lambda cell: False,
               change: Change | None = None) -> list[Cell]:  # fmt: skip
    """All cells, evaluated but for those that `skip` names."""
    cells = plan(root)
    for cell in cells:
        if not skip(cell):
            evaluate(cell, count, change)
    return cells
