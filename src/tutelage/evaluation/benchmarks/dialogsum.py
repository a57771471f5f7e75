"""DialogSum (Chen et al., 2021): 500 test dialogues with three reference summaries each.

Source: github cylnlp/dialogsum. ROUGE-L (F-measure, Porter stemming): `rouge_l` is the mean over the three references,
which equals scoring each reference as an example of its own (the paper's 1,500 test instances); `rouge_l_best` is the
best of the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored, user
from tutelage.evaluation.benchmarks.data import Hub, hub_rows, read_rows
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.metrics import SCORERS

INSTRUCTION = "Summarize the following dialogue in one or two sentences."
_REFERENCES = ("summary1", "summary2", "summary3")


@dataclass(frozen=True)
class DialogSum(Benchmark):
    files: ClassVar[tuple[str, ...]] = ("dialogsum/dialogsum.test.jsonl",)
    hub: ClassVar[str] = "knkarthick/dialogsum"
    metrics: ClassVar[Mapping[str, Metric]] = {"rouge_l": Metric(), "rouge_l_best": Metric()}
    headline: ClassVar[str] = "rouge_l"
    max_new_tokens: ClassVar[int] = 128
    stop: ClassVar[tuple[str, ...]] = ("\n\n", "\nDialogue:")

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        if data_dir is None:
            rows = _joined(hub_rows(Hub(self.hub, "test")))
        else:
            needed = ("fname", "dialogue", *_REFERENCES)
            rows = read_rows(data_dir, "dialogsum/dialogsum.test.jsonl", Hub("", ""), needed)
        return [
            Item(row["fname"], row["dialogue"], tuple(row[name] for name in _REFERENCES if row.get(name)), row)
            for row in rows
        ]

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        asked = f"{INSTRUCTION}\n\n{item.prompt}"
        return Prompt(messages=user(asked)) if chat else Prompt(text=f"{asked}\n\nSummary:")

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        scores = {metric: SCORERS[metric](reply.text, item.targets) for metric in self.metrics}
        reason = "; ".join(f"{metric}: {score.reason}" for metric, score in scores.items())
        return Scored({metric: score.value for metric, score in scores.items()}, reply.text.strip() or None, reason)


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per dialogue. The hub has one row per reference: `test_0_1`, `test_0_2`, …."""
    dialogues: dict[str, dict[str, Any]] = {}
    for row in rows:
        name, _, number = str(row["id"]).rpartition("_")
        dialogues.setdefault(name, {"fname": name, "dialogue": row["dialogue"]})[f"summary{number}"] = row["summary"]
    return list(dialogues.values())
