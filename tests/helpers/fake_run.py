"""A small recipe run made on the spot: folders as an evaluation and a training leave them, and their manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.common.types import Conversation, Message
from tutelage.evaluation.records import ExampleRecord, summarise, write_records, write_result
from tutelage.evaluation.tasks import score_response

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
        kept = [word if rng.random() < right else str(rng.choice(FILLER)) for word in words]
        finished = bool(rng.random() > 0.04)
        kept = kept if finished else kept[: len(kept) // 2]
        records.append(score_response(row, " ".join(kept), METRICS, finished=finished, tokens=2 * len(kept)))
    return records


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


def make_run(root: Path, count: int = 60, change: Any = None) -> dict[str, Any]:
    """Write the folders of ROWS under `root` and return the manifest. `change(stage, records)` may rewrite records."""
    rng = np.random.default_rng(0)
    data = {"dev": conversations(count), "test": conversations(count)[::-1]}
    rows = []
    for stage, label, kind, right, seeds in ROWS:
        runs = []
        for seed in seeds:
            folders = {}
            for task, conversation_rows in data.items():
                folder = f"{stage}-{seed}-{task}"
                records = answers(conversation_rows, right + rng.normal(0, 0.01), rng)
                records = change(stage, records) if change else records
                write_records(root / folder, records)
                write_result(root / folder, summarise(records, METRICS, METRICS[0], task=task, model=stage, seed=seed))
                folders[task] = folder
            train = None
            if kind in ("sft", "distill"):
                train = f"{stage}-{seed}"
                (root / train).mkdir()
                lines = [json.dumps(line) + "\n" for line in training_log(kind, right, rng)]
                (root / train / "metrics.jsonl").write_text("".join(lines))
            runs.append({"seed": seed, "train": train, "evaluations": folders})
        chosen = {"learning_rate": 1e-4, "epochs": 6} if kind == "distill" or stage == "sft" else {}
        rows.append({"stage": stage, "label": label, "kind": kind, "chosen": chosen, "note": "", "runs": runs})
    rows[0]["note"] = "no model: the dialogue's first line"
    points = [
        {"stage": stage, "learning_rate": rate, "epochs": epochs, "value": 20 + 10000 * rate + epochs,
         "chosen": (rate, epochs) == (1e-4, 6)}
        for stage in ("sft", "gkd") for rate in (3e-5, 1e-4) for epochs in (2, 4, 6)
    ]  # fmt: skip
    return {
        "recipe": "mini",
        "description": "A 64M student from a 135M teacher on 1,000 dialogues, three seeds.",
        "root": str(root),
        "seeds": [0, 1, 2],
        "tasks": {task: {"headline": METRICS[0], "metrics": METRICS} for task in data},
        "reference": "sft",
        "rows": rows,
        "search": {"task": "dev", "grid": {"learning_rate": [3e-5, 1e-4], "epochs": [2, 4, 6]}, "points": points},
        "facts": [
            {"label": "Perplexity after the cut", "value": 14300.0},
            {"label": "Perplexity after healing", "value": 18.4},
            {"label": "Wall time", "value": "1 h 52 min"},
            {"label": "Machine", "value": "2 CPU cores"},
        ],
    }
