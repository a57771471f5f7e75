"""MMLU-Pro (Wang et al., 2024): 12,032 questions of 14 categories, up to ten options, five solved examples.

Source: github TIGER-AI-Lab/MMLU-Pro. Prompts are lm-eval's, which are the official ones. A reply is read in three ways:
`accuracy` takes the answer stated last, in any usual form; `accuracy_official` uses the official script's three
patterns, which take the first statement and, failing that, the last capital letter (where the script guesses at random
because it finds nothing, the answer counts as wrong); `accuracy_lm_eval` uses only the first of these patterns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored
from tutelage.evaluation.benchmarks.data import Hub, read_rows
from tutelage.evaluation.benchmarks.lm_eval import HarnessTask, cut_at
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.next_question import find_before_next

LETTERS = "ABCDEFGHIJ"
_IS = re.compile(r"answer is \(?([A-J])\)?")
_COLON = re.compile(r"(?=[aA]nswer:\s*([A-J]))")  # a look-ahead: in "Answer: Answer: B" both match
_LAST = re.compile(r"([A-J])(?=[^A-J]*$)")


@dataclass(frozen=True)
class MMLUPro(Benchmark):
    files: ClassVar[tuple[str, ...]] = ("mmlu_pro/mmlu_pro_test.jsonl", "mmlu_pro/mmlu_pro_validation.jsonl")
    hub: ClassVar[str] = "TIGER-Lab/MMLU-Pro"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(fixed_groups=True),
        "accuracy_official": Metric(fixed_groups=True),
        "accuracy_lm_eval": Metric(fixed_groups=True),
    }
    headline: ClassVar[str] = "accuracy"
    max_new_tokens: ClassVar[int] = 2048
    shots: ClassVar[int] = 5
    stop: ClassVar[tuple[str, ...]] = ("Question:",)

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        needed = ("question_id", "question", "options", "answer", "category")
        rows = read_rows(data_dir, "mmlu_pro/mmlu_pro_test.jsonl", Hub(self.hub, "test"), needed)
        self._cache.clear()  # this object serves the whole process: another folder has other solved examples
        self._cache["data_dir"] = data_dir
        return [_item(row) for row in rows]

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        return self._task(item).prompt(item.row, chat, shots)

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        target, options = item.targets[0], item.row["options"]
        read = partial(find_letter, letters=LETTERS[: len(options)], options=options)
        found = find_before_next(read, reply.text, reply.finished, self.stop)
        scores = {
            "accuracy": float(found.answer == target),
            "accuracy_official": float(official(reply.text) == target),
            "accuracy_lm_eval": self._scorer(item).scores(item.row, cut_at(reply.text, self.stop))["custom-extract"],
        }
        return Scored(dict(scores), found.answer, found.how)

    def _scorer(self, item: Item) -> HarnessTask:
        """A task without solved examples, hence without the validation file; it scores replies of every category."""
        if "scorer" not in self._cache:
            options: dict[str, Any] = {"fewshot_split": None, "num_fewshot": 0, "fewshot_config": None}
            self._cache["scorer"] = HarnessTask("mmlu_pro/mmlu_pro_law.yaml", [item.row], **options)
        return self._cache["scorer"]

    def _task(self, item: Item) -> HarnessTask:
        if item.group not in self._cache:
            if "shots" not in self._cache:
                needed = ("question", "options", "cot_content", "category")
                hub = Hub(self.hub, "validation")
                rows = read_rows(self._cache.get("data_dir"), "mmlu_pro/mmlu_pro_validation.jsonl", hub, needed)
                self._cache["shots"] = rows
            shots = [_plain(row) for row in self._cache["shots"] if row["category"] == item.group]
            file = f"mmlu_pro/mmlu_pro_{item.group.replace(' ', '_')}.yaml"
            self._cache[item.group] = HarnessTask(file, [item.row], shots)
        return self._cache[item.group]


def official(reply: str) -> str | None:
    """The letter by the official script's patterns, tried in order.

    Its second, `.*[aA]nswer:\\s*([A-J])`, finds the last match of the first line with one, in time quadratic in the
    length of the line: minutes in all for replies that run to their limit. The loop finds the same in linear time.
    """
    found = _IS.search(reply)
    for match in _COLON.finditer(reply) if found is None else ():
        if found is not None and "\n" in reply[found.start() : match.start()]:
            break
        found = match
    found = found or _LAST.search(reply)
    return found[1] if found else None


def _item(row: Mapping[str, Any]) -> Item:
    kept = _plain(row)
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, kept["options"], strict=False))
    prompt = f"{row['question']}\n{listed}"
    return Item(str(row["question_id"]), prompt, (row["answer"],), kept, row["category"], 1 / len(kept["options"]))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that prompts and scores use, without the options "N/A" of the hub's rows, as in the script."""
    kept = {key: row.get(key, "") for key in ("question", "answer", "category", "cot_content")}
    return {**kept, "options": [option for option in row["options"] if option != "N/A"]}
