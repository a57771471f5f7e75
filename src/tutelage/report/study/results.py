"""A study's results: arms on tasks, averaged over seeds and tasks, and compared.

An *arm* is what was trained (size, student, method, teacher); a *result* is an arm on one task, or on the average of
the study's general tasks, over all seeds. `read.py` makes them from the evaluations' folders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tutelage.evaluation.chance import CHANCE_LEVEL, binomial_tail
from tutelage.evaluation.statistics import SIGNIFICANT, Paired, holm
from tutelage.report.comparisons import compare
from tutelage.report.labels import AVERAGE, JUDGED_METRICS, task_label
from tutelage.report.scores import MetricValue, seeds_text
from tutelage.report.study.paper_values import paper_values

if TYPE_CHECKING:
    from tutelage.study.plan import Cell

DOMAIN_TASKS = ("flores", "dialogsum", "arc_challenge")
SYNTHETIC = ("mix", "two_stage")  # their size counts synthetic rows
CONTROLS = ("sft_again", "sft")  # what arms are compared with: the first that the study has
SAME_DATA = ("gkd_sft", "gkd_base", "seqkd")  # distilled from the teacher that was fine-tuned on the same data
UNSCORED = "unscored"


@dataclass(frozen=True)
class Arm:
    """What was trained; size, student, method and teacher are those of a study's `Cell`."""

    size: int | None
    student: str
    method: str
    teacher: str | None


@dataclass(frozen=True, kw_only=True)
class Result(MetricValue):
    """An arm on a task. `value` and `by_seed` are those of the evaluations' own results."""

    anchor: str  # id on the page
    arm: Arm
    task: str
    cells: tuple[Cell, ...]  # the planned ones, seed by seed
    of: tuple[Result, ...] = ()  # an average's tasks
    chance: float | None = None  # the score of guessing, where answers can be guessed

    @property
    def missing(self) -> tuple[int, ...]:
        """Planned seeds without an evaluation."""
        there = {*self.seeds, *self.unscored_seeds}
        return tuple(dict.fromkeys(cell.seed for cell in self.cells if cell.seed not in there))

    @property
    def guessing_p(self) -> float | None:
        """The probability that guessing reaches the mean score (binomial, examples of one run); None where answers
        cannot be guessed or none is scored."""
        if self.chance is None or math.isnan(self.value):
            return None
        return binomial_tail(round(self.value / 100 * self.examples), self.examples, self.chance / 100)

    @property
    def seeds_text(self) -> str:
        """Seeds with a score, as `scores.seeds_text` writes them."""
        return seeds_text(self.seeds, (*self.missing, *self.unscored_seeds))


@dataclass
class Study:
    """All results of a study, and its comparisons, each made once."""

    results: dict[tuple[Arm, str], Result]
    general: tuple[str, ...]  # tasks of the average, except for unscored ones
    held_out: tuple[str, ...]  # tasks where lower is better: never averaged
    domain: tuple[str, ...]
    cells: tuple[Cell, ...]
    without_comet: dict[str, tuple[int, int]] = field(default_factory=dict)  # evaluations that it did not score, of all
    compared: dict[tuple[str, str], Paired | None] = field(default_factory=dict)  # by both results' anchors
    headlines: dict[str, str] = field(default_factory=dict)  # student → its task of advice and claims

    def headline(self, student: str) -> str:
        """The task of general advice for a student: the average of the general tasks that are not left out for it, or
        the only one; an unscored one where no other is left; empty where there is none."""
        return self.headlines.get(student, "")

    def left_out(self, student: str) -> dict[str, str]:
        """Tasks that say nothing about a student, each with the reason: on which it has evaluations but no score, or
        none of its models is shown to do better than guessing (Holm over the models)."""
        found: dict[str, str] = {}
        methods = {arm.method for arm in self.arms} - {"teacher"}
        for task in (*self.general, *self.domain):
            own = self.having(student, methods, task)
            at_chance = [(one.chance, one.guessing_p) for one in own if one.guessing_p is not None]
            if _is_unscored(own):
                found[task] = UNSCORED
            elif at_chance and min(holm([p for _, p in at_chance])) > CHANCE_LEVEL:
                found[task] = f"none of its models was shown to do better than guessing, {at_chance[0][0]:.1f}"
        return found

    @property
    def arms(self) -> list[Arm]:
        """All arms, in the study's order."""
        return list(dict.fromkeys(arm for arm, _ in self.results))

    @property
    def students(self) -> list[str]:
        """All students, in the study's order."""
        return list(dict.fromkeys(arm.student for arm in self.arms if arm.method != "teacher"))

    @cached_property
    def unscored(self) -> tuple[str, ...]:
        """Tasks with evaluations, none of which has a score: InFoBench without a judge. They are in no average."""
        tasks = dict.fromkeys(task for _, task in self.results if task != AVERAGE)
        own = {task: [result for (_, t), result in self.results.items() if t == task] for task in tasks}
        return tuple(task for task, of in own.items() if _is_unscored(of))

    @property
    def averaged(self) -> tuple[str, ...]:
        """The general tasks that are in the average."""
        return tuple(task for task in self.general if task not in self.unscored)

    def label(self, task: str) -> str:
        """The task's name in tables and figures; that of the average says what is not in it, that of FLORES that COMET
        has not scored it."""
        if task in self.without_comet:
            return f"{task_label(task)} (chrF only)"
        left_out = [task_label(one) for one in self.general if one in self.unscored] if task == AVERAGE else []
        return f"{task_label(task)} without {', '.join(left_out)}" if left_out else task_label(task)

    def why_unscored(self, task: str) -> str:
        """ "InFoBench is unscored: name a judge"; for other tasks without what to do."""
        return f"{task_label(task)} is unscored{': name a judge' if self.is_judged(task) else ''}"

    def is_judged(self, task: str) -> bool:
        """Whether a judge scores the task."""
        return any(result.metric in JUDGED_METRICS for (_, t), result in self.results.items() if t == task)

    def get(self, arm: Arm | None, task: str) -> Result | None:
        """The arm's result on a task; None where it is not in the study."""
        return self.results.get((arm, task)) if arm is not None else None

    def having(self, student: str, methods: Iterable[str], task: str) -> list[Result]:
        """All results of a student's methods on a task: every size and every teacher."""
        wanted = set(methods)
        return [r for (arm, t), r in self.results.items()
                if t == task and arm.student == student and arm.method in wanted]  # fmt: skip

    def find(self, student: str, method: str, size: int | None, task: str) -> Result | None:
        """The result of a method; of its first teacher where it has several."""
        return next((r for r in self.having(student, (method,), task) if r.arm.size == size), None)

    def sizes(self, task: str, methods: Iterable[str], student: str) -> list[int | None]:
        """Data sizes that are planned for a task, ascending. None, all rows of data whose number is not known, is the
        largest."""
        found = {r.arm.size for r in self.having(student, methods, task)}
        return sorted(found, key=lambda size: math.inf if size is None else size)

    def reference(self, result: Result) -> Result | None:
        """What a result is compared with everywhere: SFT again of the student on the same data where the study has it,
        else SFT. For synthetic arms that on the gold rows, and where there is none GKD on the gold rows."""
        arm = result.arm
        if arm.method in ("sft", "teacher", "base"):
            return None
        options = CONTROLS[CONTROLS.index(arm.method) + 1 :] if arm.method in CONTROLS else CONTROLS
        for method in (*options, "gkd_sft") if arm.method in SYNTHETIC else options:
            found = self.find(arm.student, method, arm.size, result.task)
            if found is None and arm.method in SYNTHETIC:
                found = self.on_gold(arm.student, method, result.task)
            if found is not None:
                return found
        return None

    def on_gold(self, student: str, method: str, task: str) -> Result | None:
        """A method's result on a domain task's gold rows: the one without a size, or all if they are the same runs."""
        own = self.having(student, (method,), task)
        same = len({one.cells[0].folder for one in own}) == 1
        return own[0] if same else next((one for one in own if one.arm.size is None), None)

    def compare(self, left: Result | None, right: Result | None) -> Paired | None:
        """Left minus right; None where either is missing, or too few examples are scored in both."""
        if left is None or right is None or left.is_missing or right.is_missing or left.metric != right.metric:
            return None
        key = (left.anchor, right.anchor)
        if key not in self.compared:
            found = compare(left, right)
            self.compared[key] = None if math.isnan(found.difference) else found
        return self.compared[key]

    def versus(self, result: Result | None) -> Paired | None:
        """The result minus its `reference`; None where it cannot be compared."""
        return self.compare(result, self.reference(result)) if result is not None else None

    def after_holm(self) -> set[tuple[str, str]]:
        """Keys of `compared` with p < 0.05 after Holm's correction for all comparisons made so far."""
        made = {key: p.p_value for key, p in self.compared.items() if p is not None}
        return {key for key, p in zip(made, holm([*made.values()]), strict=True) if p < SIGNIFICANT}


def _is_unscored(results: Sequence[Result]) -> bool:
    """Whether there are evaluations, none of which has a score."""
    return all(one.is_missing for one in results) and any(one.is_unscored for one in results)


def paper_value(study: Study, result: Result | None) -> float | None:
    """The paper's number for the same model, size, method and metric; None where it has none."""
    if result is None:
        return None
    paper, arm = paper_values(), result.arm
    student = paper.student(arm.student)
    if result.task in study.domain:
        same = not result.metric or paper.same_metric(result.task, result.metric)
        same = same and (arm.method not in SYNTHETIC or arm.size == paper.synthetic_rows)
        if arm.method == "teacher":
            name = (arm.teacher or arm.student).lower()
            return paper.domain_teacher(result.task) if same and "llama-3.1-70b" in name else None
        return paper.domain(student, arm.method, result.task) if same and student else None
    if student is None:
        return None
    if result.task == AVERAGE:
        same = set(study.averaged) == set(paper.tasks)
    else:
        same = not result.metric or paper.same_metric(result.task, result.metric)
    return paper.general(student, arm.size, arm.method, result.task) if same else None


def largest(study: Study, student: str, method: str, task: str) -> Result | None:
    """A method's result at its largest size."""
    found = study.having(student, (method,), task)
    return max(found, key=lambda one: -1 if one.arm.size is None else one.arm.size, default=None)
