"""InFoBench (Qin et al., 2024): 500 instructions, each judged by yes/no questions, 2,250 in all.

Source: github qinyiwei/InfoBench. The score is DRFR: the share of questions answered yes among those with an answer. A
question that no judge was asked, or that it answered with neither yes nor no, is unscored. `unscored` counts questions;
the groups are the two sets, the questions' labels, and the instructions' categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored, user
from tutelage.evaluation.benchmarks.data import Hub, read_rows
from tutelage.evaluation.benchmarks.summary import group_entry
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.records import ExampleRecord

EASY, HARD = "Easy_set", "Hard_set"


@dataclass(frozen=True)
class InFoBench(Benchmark):
    files: ClassVar[tuple[str, ...]] = ("infobench/InFoBench.jsonl",)
    hub: ClassVar[str] = "kqsong/InFoBench"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "drfr": Metric(),
        "drfr_easy": Metric(source="drfr", of_groups=(EASY,)),
        "drfr_hard": Metric(source="drfr", of_groups=(HARD,)),
    }
    headline: ClassVar[str] = "drfr"

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        needed = ("id", "instruction", "input", "decomposed_questions", "subset", "category")
        rows = read_rows(data_dir, "infobench/InFoBench.jsonl", Hub(self.hub, "train"), needed)
        return [
            Item(str(row["id"]), _prompt(row), tuple(row["decomposed_questions"]), row, row["subset"]) for row in rows
        ]

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        return Prompt(messages=user(item.prompt)) if chat else Prompt(text=f"{item.prompt}\n")

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        questions, labels = item.targets, item.row.get("question_label") or [[]] * len(item.targets)
        answers = (None,) * len(questions) if reply.judgements is None else reply.judgements
        if len(answers) != len(questions):
            raise TutelageError(
                f"infobench: `{item.id}` has {len(questions)} questions but {len(answers)} judgements; give one each, "
                "null where the judge answered neither yes nor no"
            )
        category = str(item.row["category"])
        values = [None if answer is None else float(answer == "yes") for answer in answers]
        parts = tuple(
            {"name": question, "scores": {"drfr": value}, "answer": answer, "labels": [*label], "category": category}
            for question, value, answer, label in zip(questions, values, answers, labels, strict=True)
        )
        scored = [value for value in values if value is not None]
        reason = f"{sum(scored):.0f} of {len(scored)} questions answered yes"
        if len(scored) < len(values):
            reason += f", {len(values) - len(scored)} unscored"
        return Scored({"drfr": sum(scored) / len(scored) if scored else None}, reply.text, reason, parts)

    def summarise(self, records: Sequence[ExampleRecord]) -> dict[str, Any]:
        result = super().summarise(records)
        result["questions"] = sum(len(record.parts) for record in records)
        result["unscored"] = _unscored(records)
        by_label: dict[str, list[ExampleRecord]] = {}
        for record in records:
            for label in dict.fromkeys(label for part in record.parts for label in _labels(part)):
                by_label.setdefault(label, []).append(_with_label(record, label))
        result["groups"] |= {label: _entry(members) for label, members in sorted(by_label.items())}
        for group, entry in result["groups"].items():
            if group in (EASY, HARD):
                result["groups"][group] = _entry([record for record in records if record.group == group]) | {
                    "n": entry["n"]
                }
        return result


def normalise(judgements: object, where: str) -> tuple[str | None, ...]:
    """The judgements of a file's row, per question: yes and no in any case, or true and false; else None (unscored).

    Raises TutelageError where they are not a list. `where`: for the message.
    """
    if not isinstance(judgements, list):
        raise TutelageError(f"{where}: `judgements` is not a list; give one yes or no per question")
    return tuple(_yes_or_no(judgement) for judgement in judgements)


def _yes_or_no(judgement: object) -> str | None:
    if isinstance(judgement, bool):
        return "yes" if judgement else "no"
    word = judgement.strip().rstrip(".!").lower() if isinstance(judgement, str) else ""
    return word if word in ("yes", "no") else None


def _prompt(row: Mapping[str, Any]) -> str:
    """The instruction, followed by the input where there is one."""
    return f"{row['instruction']}\n\n{row['input']}" if str(row["input"] or "").strip() else str(row["instruction"])


def _unscored(records: Sequence[ExampleRecord]) -> int:
    return sum(part["scores"]["drfr"] is None for record in records for part in record.parts)


def _entry(members: Sequence[ExampleRecord]) -> dict[str, Any]:
    return group_entry(members, ["drfr"], "drfr") | {
        "questions": sum(len(record.parts) for record in members),
        "unscored": _unscored(members),
    }


def _labels(part: Mapping[str, Any]) -> list[str]:
    return [*part["labels"], part["category"]]


def _with_label(record: ExampleRecord, label: str) -> ExampleRecord:
    """The record with only its parts of one label or category."""
    parts = tuple(part for part in record.parts if label in _labels(part))
    scored = [part["scores"]["drfr"] for part in parts if part["scores"]["drfr"] is not None]
    return replace(record, parts=parts, scores={"drfr": sum(scored) / len(scored) if scored else None})
