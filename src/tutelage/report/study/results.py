"""A study's results: arms on tasks, averaged over seeds and tasks, and compared.

An *arm* is what was trained (size, student, method, teacher); a *result* is an arm on one task, or on the average of
the study's general tasks, over all seeds. `study_read` makes them from the evaluations' folders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tutelage.evaluation.chance import CHANCE_LEVEL, binomial_tail
from tutelage.evaluation.statistics import SIGNIFICANT, Paired, Scores, paired_bootstrap
from tutelage.report.labels import AVERAGE
from tutelage.report.study.paper_values import paper_values

if TYPE_CHECKING:
    from tutelage.study.plan import Cell

DOMAIN_TASKS = ("flores", "dialogsum", "arc_challenge")
SYNTHETIC = ("mix", "two_stage")  # their size counts synthetic rows
SAME_DATA = ("gkd_sft", "gkd_base", "seqkd")  # distilled from the teacher that was fine-tuned on the same data


@dataclass(frozen=True)
class Arm:
    size: int | None
    student: str
    method: str
    teacher: str | None


@dataclass(frozen=True)
class Result:
    """Numbers are 0..100, or as stored where lower is better. `cells` are the planned ones, seed by seed."""

    anchor: str  # id on the page
    arm: Arm
    task: str
    metric: str
    value: float  # as the evaluations say it, averaged over seeds; nan where missing or unscored
    stderr: float
    by_seed: tuple[float, ...]
    scores: Scores  # [S, C]; [0, 0] where missing
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]  # with an evaluation, row by row of `scores`
    examples: int
    of: tuple[Result, ...] = ()  # an average's tasks
    few: bool = False  # clusters are whole groups, of which there are few
    chance: float | None = None  # what guessing scores, where answers can be guessed

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(cell.seed for cell in self.cells if cell.seed not in self.seeds)

    @property
    def is_missing(self) -> bool:
        return not self.seeds

    @property
    def at_chance(self) -> bool:
        """Whether guessing gives the mean score with a probability of 0.05 or more (binomial, examples of one run)."""
        if self.chance is None or math.isnan(self.value):
            return False
        hits = round(self.value / 100 * self.examples)
        return binomial_tail(hits, self.examples, self.chance / 100) > CHANCE_LEVEL

    @property
    def seeds_text(self) -> str:
        planned = len(self.cells) if not self.of else max(len(one.cells) for one in self.of)
        return f"{len(self.seeds)}" if planned == len(self.seeds) else f"{len(self.seeds)} of {planned}"


@dataclass
class Study:
    """All results of a study, and comparisons made once each."""

    results: dict[tuple[Arm, str], Result]
    general: tuple[str, ...]  # tasks of the average
    held_out: tuple[str, ...]  # tasks where lower is better: never averaged
    domain: tuple[str, ...]
    cells: tuple[Cell, ...]
    compared: dict[tuple[str, str], Paired | None] = field(default_factory=dict)

    @property
    def arms(self) -> list[Arm]:
        return list(dict.fromkeys(arm for arm, _ in self.results))

    @property
    def students(self) -> list[str]:
        return list(dict.fromkeys(arm.student for arm in self.arms if arm.method != "teacher"))

    def get(self, arm: Arm | None, task: str) -> Result | None:
        return self.results.get((arm, task)) if arm is not None else None

    def find(self, student: str, method: str, size: int | None, task: str) -> Result | None:
        """The result of a method, of its first teacher where it has several."""
        found = (r for (arm, t), r in self.results.items()
                 if t == task and (arm.student, arm.method, arm.size) == (student, method, size))  # fmt: skip
        return next(found, None)

    def sizes(self, task: str, methods: Iterable[str] | None = None, student: str | None = None) -> list[int]:
        """Data sizes that are planned for a task, ascending."""
        wanted = None if methods is None else set(methods)
        arms = [arm for arm, t in self.results if t == task and arm.method not in ("teacher", "base")]
        return sorted(
            {
                arm.size
                for arm in arms
                if arm.size is not None
                and (wanted is None or arm.method in wanted)
                and (student is None or arm.student == student)
            }
        )

    def reference(self, result: Result) -> Result | None:
        """What a result is compared with: the student's SFT on the same data, for synthetic arms that on the gold."""
        arm = result.arm
        if arm.method in ("sft", "teacher", "base"):
            return None
        same = self.find(arm.student, "sft", arm.size, result.task)
        if same is not None or arm.method not in SYNTHETIC:
            return same
        own = [r for (a, t), r in self.results.items()
               if t == result.task and (a.student, a.method) == (arm.student, "sft")]  # fmt: skip
        return own[0] if len(own) == 1 else None

    def compare(self, left: Result | None, right: Result | None) -> Paired | None:
        """Left minus right by paired bootstrap, seeds in pairs where both have the same; None where either lacks."""
        if left is None or right is None or left.is_missing or right.is_missing or left.metric != right.metric:
            return None
        key = (left.anchor, right.anchor)
        if key not in self.compared:
            paired = left.seeds == right.seeds and len(left.seeds) > 1
            found = paired_bootstrap(left.scores, right.scores, paired_seeds=paired)
            self.compared[key] = None if math.isnan(found.difference) else found
        return self.compared[key]

    def versus(self, result: Result | None) -> Paired | None:
        return self.compare(result, self.reference(result)) if result is not None else None

    def survivors(self) -> set[tuple[str, str]]:
        """Comparisons that stay below 0.05 after Holm's correction for all that the report has made."""
        made = sorted((p.p_value, key) for key, p in self.compared.items() if p is not None)
        kept: set[tuple[str, str]] = set()
        for place, (p_value, key) in enumerate(made):
            if p_value * (len(made) - place) >= SIGNIFICANT:
                break
            kept.add(key)
        return kept


def headline_task(study: Study) -> str | None:
    """What general answers are about: the average, or the only general task."""
    if len(study.general) > 1:
        return AVERAGE
    return study.general[0] if study.general else None


def paper_value(study: Study, result: Result | None) -> float | None:
    """What the paper prints for the same model, size, method and metric."""
    if result is None:
        return None
    paper, arm = paper_values(), result.arm
    student = paper.student(arm.student)
    if result.task in study.domain:
        same = not result.metric or paper.same_metric(result.task, result.metric)
        if arm.method == "teacher":
            name = (arm.teacher or arm.student).lower()
            return paper.domain_teacher(result.task) if same and "llama-3.1-70b" in name else None
        return paper.domain(student, arm.method, result.task) if same and student else None
    if student is None:
        return None
    if result.task == AVERAGE:
        same = set(study.general) == set(paper.tasks)
    else:
        same = not result.metric or paper.same_metric(result.task, result.metric)
    return paper.general(student, arm.size, arm.method, result.task) if same else None


def largest(study: Study, student: str, method: str, task: str) -> Result | None:
    """A method's result at its largest size."""
    found = [r for (arm, t), r in study.results.items() if t == task and (arm.student, arm.method) == (student, method)]
    return max(found, key=lambda one: -1 if one.arm.size is None else one.arm.size, default=None)
