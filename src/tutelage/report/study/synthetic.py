"""The comparisons of the paper's figure 5: synthetic arms at each size against GKD on the gold rows alone."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.evaluation.statistics import SIGNIFICANT, Paired, holm
from tutelage.report.study.results import SYNTHETIC, Result, Study


@dataclass(frozen=True)
class SyntheticSizes:
    """A task's synthetic arms, all students and sizes: a family of comparisons that are corrected together."""

    task: str
    gold: dict[str, Result]  # student → GKD on the gold rows
    arms: tuple[Result, ...]
    p_values: dict[tuple[str, str], float]  # (anchor of the arm, of GKD) → Holm's corrected p

    @property
    def after_holm(self) -> set[tuple[str, str]]:
        """Keys of `p_values` below 0.05."""
        return {key for key, p in self.p_values.items() if p < SIGNIFICANT}


def synthetic_sizes(study: Study) -> list[SyntheticSizes]:
    """One per domain task that has synthetic arms."""
    found = []
    for task in study.domain:
        arms = tuple(r for student in study.students for r in study.having(student, SYNTHETIC, task))
        golds = {student: study.on_gold(student, "gkd_sft", task) for student in study.students}
        gold = {student: one for student, one in golds.items() if one is not None}
        made: dict[tuple[str, str], Paired] = {}
        for arm in arms:
            base = gold.get(arm.arm.student)
            versus = study.compare(arm, base)
            if base is not None and versus is not None:
                made[arm.anchor, base.anchor] = versus
        corrected = holm([one.p_value for one in made.values()])
        if arms:
            found.append(SyntheticSizes(task, gold, arms, dict(zip(made, corrected, strict=True))))
    return found
