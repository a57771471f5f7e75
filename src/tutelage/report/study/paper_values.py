"""The paper's scores, to be shown beside a study's own in tables and figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from tutelage.report.labels import AVERAGE


@dataclass(frozen=True)
class PaperValues:
    """`content` is paper_values.yaml as it is."""

    content: dict[str, Any]

    @property
    def source(self) -> str:
        """Title and tables of the paper, for captions."""
        return self.content["source"]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The general tasks, in the order of the tables' columns."""
        return tuple(self.content["tasks"])

    @property
    def students(self) -> tuple[str, ...]:
        """The paper's names of its students."""
        return tuple(self.content["table3"])

    @property
    def synthetic_rows(self) -> int:
        """Synthetic rows of table 2's arms."""
        return self.content["table2"]["synthetic_rows"]

    def student(self, name: str) -> str | None:
        """The paper's student with the same Llama version and size, by the names; None where there is none."""
        found = re.search(r"llama[-_. ]?3\.(\d)[-_. ]?(\d+)b(?![a-z0-9])", name.lower())
        return next((s for s in self.students if found and s.endswith(f"3.{found[1]}-{found[2]}B")), None)

    def size(self, size: int | None) -> int | None:
        """The paper's full size if `size` is within 0.5 % of it (counts of Tulu 3 vary), else `size`."""
        full = self.content["full_size"]
        return full if size is not None and abs(size - full) < 0.005 * full else size

    def general(self, student: str, size: int | None, method: str, task: str) -> float | None:
        """Table 3's score, or table 1's for SeqKD, 0..100; None where the paper has none.

        `student`: the paper's name of it. `task` may be the average of the five benchmarks.
        """
        values = self.content["table3"].get(student, {}).get(self.size(size), {}).get(method)
        if values is None:
            table = self.content["table1"]
            whole = student == table["student"] and self.size(size) == self.content["full_size"]
            values = table["rows"].get(method) if whole else None
        if values is None:
            return None
        if task == AVERAGE:
            return sum(values[: len(self.tasks)]) / len(self.tasks)
        return values[self.tasks.index(task)] if task in self.tasks else None

    def domain(self, student: str, method: str, task: str) -> float | None:
        """Table 2's score, 0..100; None where the paper has none."""
        table = self.content["table2"]
        values = table["rows"].get(student, {}).get(task)
        return values[table["columns"].index(method)] if values and method in table["columns"] else None

    def domain_teacher(self, task: str) -> float | None:
        """Table 2's score of the 70B teacher, 0..100."""
        return self.content["table2"]["teacher"].get(task)

    def same_metric(self, task: str, metric: str) -> bool:
        """Whether the paper reports this metric for the task."""
        return self.content["metrics"].get(task) == metric


@cache
def paper_values() -> PaperValues:
    """The values of paper_values.yaml, read once."""
    text = (files("tutelage.report.study") / "paper_values.yaml").read_text(encoding="utf-8")
    return PaperValues(yaml.safe_load(text))
