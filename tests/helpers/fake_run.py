"""Results of a small recipe made by code: folders as evaluations and trainings leave them, and their value."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.types import Conversation, Message
from tutelage.evaluation.records import ExampleRecord, summarise, write_records, write_result
from tutelage.evaluation.tasks import score_response
from tutelage.runs.recipe_results import RecipeResults, ResultRow, ResultTask, RowRun, SearchResults
from tutelage.runs.search import SearchPoint

NAMES = ("Anna", "Bo", "Carla", "Dev", "Eli", "Fatima", "Greta", "Hugo", "Ivy", "Jonas")
PLANS = (
    "meet at the station before the concert on Friday",
    "move the budget review to Monday because the numbers are late",
    "rent a small car for the weekend and share its cost",
    "return the broken kettle and ask for the money back",
    "bake a lemon cake for the neighbour who has been ill",
    "take the earlier train so that there is time for lunch",
)
FILLER = (
    "the",
    "they",
    "about",
    "that",
    "says",
    "will",
    "with",
    "someone",
    "other",
    "talk",
    "ask",
    "week",
    "not",
    "and",
)
METRICS = ["rouge_l", "rouge_l_best"]
# stage, label, kind, share of right words, seeds
ROWS: tuple[tuple[str, str, str, float, tuple[int | None, ...]], ...] = (
    ("lead_1", "First line", "baseline", 0.22, (None,)),
    ("teacher", "Teacher (SFT)", "sft", 0.68, (None,)),
    ("sft", "SFT", "sft", 0.44, (0, 1, 2)),
    ("gkd", "GKD (SFT-S)", "distill", 0.52, (0, 1, 2)),
    ("off_policy", "KD on the data only", "distill", 0.45, (0, 1, 2)),
    ("gkd_base", "GKD (Base-S)", "distill", 0.39, (0, 1, 2)),
)


def conversations(count: int) -> list[Conversation]:
    rows = []
    for n in range(count):
        first, second = NAMES[n % 10], NAMES[(n * 3 + 1) % 10]
        plan = PLANS[n % len(PLANS)]
        dialogue = (
            f"{first}: Can we {plan}?\n{second}: I was going to ask the same. Let me check first.\n{first}: Good."
        )
        references = (f"{first} and {second} agree to {plan}.", f"{first} asks {second} to {plan}.")
        prompt = Message("user", f"Summarize this dialogue in one sentence.\n\n{dialogue}")
        rows.append(Conversation(f"dialogue_{n}", (prompt,), references))
    return rows


def answers(rows: list[Conversation], right: float, rng: np.random.Generator) -> list[ExampleRecord]:
    """The first reference with a share of its words swapped for others, scored by the real scorers."""
    records = []
    for row in rows:
        words = row.references[0].split()
        kept = [word if rng.random() < right else FILLER[rng.integers(len(FILLER))] for word in words]
        finished = bool(rng.random() > 0.04)
        kept = kept if finished else kept[: len(kept) // 2]
        records.append(scored(row, tuple(kept), finished))
    return [replace(record, scores={**record.scores}) for record in records]


@cache  # most runs that are made have the same answers
def scored(row: Conversation, words: tuple[str, ...], finished: bool) -> ExampleRecord:
    return score_response(row, " ".join(words), METRICS, finished=finished, tokens=2 * len(words))


def training_log(kind: str, right: float, rng: np.random.Generator, steps: int = 120) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        fall = float(np.exp(-step / 40))
        start = 2.4 if kind == "sft" else 0.18
        line: dict[str, Any] = {
            "step": step,
            "epoch": 3 * step / steps,
            "loss": start * (0.55 + 0.45 * fall) * float(rng.normal(1, 0.06)),
            "grad_norm": 1 + fall + 0.1 * float(rng.random()),
            "learning_rate": 1e-4 * (1 - step / steps),
            "tokens_per_s": 480.0,
            "forward_kl": None,
        }
        if kind == "distill":
            line["forward_kl"] = 0.6 * (0.5 + 0.5 * fall) * float(rng.normal(1, 0.06))
            line["reverse_kl"] = 0.7 * (0.4 + 0.6 * fall) * float(rng.normal(1, 0.06))
            line["agreement"] = 0.5 + 0.3 * right - 0.15 * fall + float(rng.normal(0, 0.01))
            line["sampled_length"] = 30 + 40 * fall + float(rng.normal(0, 2))
        if step % 30 == 0:
            line["validation_loss"] = start * (0.6 + 0.4 * fall)
        lines.append(line)
    return lines


def make_run(root: Path, count: int = 60, change: Any = None) -> RecipeResults:
    """Write the folders of ROWS under `root` and return the results. `change(stage, records)` may rewrite records."""
    rng = np.random.default_rng(0)
    data = {"dev": conversations(count), "test": conversations(count)[::-1]}
    rows = []
    for stage, label, kind, right, seeds in ROWS:
        runs = []
        for seed in seeds:
            folders = {}
            for task, conversation_rows in data.items():
                folder = root / f"{stage}-{seed}-{task}"
                records = answers(conversation_rows, right + rng.normal(0, 0.01), rng)
                records = change(stage, records) if change else records
                write_records(folder, records)
                write_result(folder, summarise(records, METRICS, METRICS[0], task=task, model=stage, seed=seed))
                folders[task] = folder
            trained = None
            if kind in ("sft", "distill"):
                trained = root / f"{stage}-{seed}"
                trained.mkdir()
                lines = [json.dumps(line) + "\n" for line in training_log(kind, right, rng)]
                (trained / "metrics.jsonl").write_text("".join(lines))
            runs.append(RowRun(seed, trained, folders))
        chosen = {"learning_rate": 1e-4, "epochs": 6} if kind == "distill" or stage == "sft" else {}
        rows.append(ResultRow(stage, label, kind, tuple(runs), chosen, of_teacher=stage == "teacher"))
    points = [
        SearchPoint(stage, {"learning_rate": rate, "epochs": epochs}, 20 + 10000 * rate + epochs,
                    chosen=(rate, epochs) == (1e-4, 6), task="dev")
        for stage in ("sft", "gkd") for rate in (3e-5, 1e-4) for epochs in (2, 4, 6)
    ]  # fmt: skip
    return RecipeResults(
        name="mini",
        description="A 64M student from a 135M teacher on 1,000 dialogues, three seeds.",
        seeds=(0, 1, 2),
        tasks={task: ResultTask(METRICS[0], tuple(METRICS)) for task in data},
        reference="sft",
        rows=tuple(rows),
        search=SearchResults(("dev",), {"learning_rate": [3e-5, 1e-4], "epochs": [2, 4, 6]}, tuple(points)),
        facts={
            "Perplexity after the cut": 14300.0,
            "Perplexity after healing": 18.4,
            "Wall time": "1 h 52 min",
            "Machine": "2 CPU cores",
        },
        done=50,
        planned=50,
    )


def with_row(results: RecipeResults, stage: str, **changes: Any) -> RecipeResults:
    """The results with fields of one row replaced."""
    return replace(results, rows=tuple(replace(r, **changes) if r.stage == stage else r for r in results.rows))


def row_of(results: RecipeResults, stage: str) -> ResultRow:
    return next(row for row in results.rows if row.stage == stage)


def right_on_some(tmp_path: Path, right: dict[str, int]) -> RecipeResults:
    """Results of one seed whose rows are `right` on so many of 40 examples, the test task alone."""

    def change(stage: str, records: list[ExampleRecord]) -> list[ExampleRecord]:
        first = right.get(stage, 0)
        return [replace(one, scores=dict.fromkeys(one.scores, float(n < first))) for n, one in enumerate(records)]

    found = make_run(tmp_path, count=40, change=change)
    rows = []
    for row in found.rows:
        if row.stage in right:
            taught = "teacher" if row.kind == "distill" else None
            rows.append(replace(row, runs=row.runs[:1], teacher=taught))
    again = replace(row_of(found, "off_policy"), stage="sft_again", label="SFT again", kind="sft",
                                control=True)  # fmt: skip
    again = replace(again, runs=again.runs[:1])
    rows += [again] if "off_policy" in right else []
    rows = [row for row in rows if row.stage != "off_policy"]
    reference = "sft_again" if "off_policy" in right else "sft"
    tasks = {"test": found.tasks["test"]}
    return replace(found, seeds=(0,), tasks=tasks, search=None, rows=tuple(rows), reference=reference)
