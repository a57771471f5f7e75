"""Sentences of the study's page: texts with links to the cells that their numbers are from."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.evaluation.statistics import Paired
from tutelage.report.labels import method_name, short, size_text
from tutelage.report.numbers import Tone, interval_text, p_text
from tutelage.report.study.results import Arm, Result, Study


@dataclass(frozen=True)
class Link:
    """A text that links to the cell with this anchor."""

    text: str
    anchor: str


Part = str | Link


@dataclass(frozen=True)
class Sentence:
    """Texts and links in order; `tone` colours the sentence on the page."""

    parts: tuple[Part, ...]
    tone: Tone = "unclear"

    @property
    def text(self) -> str:
        """The sentence without its links."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def method_label(arm: Arm, study: Study) -> str:
    """The method, with its teacher where the study has the method with several teachers."""
    label = method_name(arm.method)
    if arm.method == "teacher":
        return f"{label} {short(arm.teacher or arm.student)}"
    teachers = {a.teacher for a in study.arms if (a.method, a.student) == (arm.method, arm.student)}
    return f"{label}, teacher {short(arm.teacher)}" if len(teachers) > 1 and arm.teacher else label


def arm_label(arm: Arm, study: Study) -> str:
    """ "ten-layers, GKD (SFT-S) at 4k": student, method and size."""
    size = f" at {size_text(arm.size)}" if arm.size is not None else ""
    who = "" if arm.method == "teacher" else f"{short(arm.student)}, "
    return f"{who}{method_label(arm, study)}{size}"


def linked(result: Result) -> Link:
    """The result's score, as a link to its cell."""
    return Link(f"{result.value:.1f}", result.anchor)


def evidence_text(versus: Paired) -> str:
    """ "(0.2 to 1.4, p = 0.012)": interval and p."""
    return f"({interval_text(versus)}, {p_text(versus.p_value)})"
