"""The study's answers in words. A sentence is a list of texts and of links to the cells that its numbers are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from tutelage.evaluation.statistics import Paired, significant
from tutelage.report.labels import short, size_text, task_label
from tutelage.report.numbers import Tone, difference_text, interval_text
from tutelage.report.study.results import SAME_DATA, SYNTHETIC, Result, Study, headline_task
from tutelage.report.study.sentences import Link, Part, Sentence, linked, method_label


def answers(study: Study) -> list[Sentence]:
    """Which method to use at which size, for each student; then which for each domain task."""
    found: list[Sentence] = []
    task = headline_task(study)
    for student in study.students if task is not None else ():
        found += _general(study, student, str(task))
    found += [s for domain in study.domain if (s := _domain(study, domain)) is not None]
    return found or [Sentence(("The study has no cells that could be compared with SFT.",))]


def guessing(study: Study) -> str | None:
    """How many models do better than guessing, for each task where one does not; None where all do."""
    parts: list[str] = []
    for task in (*study.general, *study.domain):
        own = [r for (_, t), r in study.results.items() if t == task and r.chance is not None and not r.is_missing]
        above = sum(not r.at_chance for r in own)
        if above < len(own):
            parts.append(f"{above} of {len(own)} on {task_label(task)} (guessing gives {own[0].chance:.1f})")
    if not parts:
        return None
    average = ", also within the average" if len(study.averaged) > 1 else ""
    known = ", ".join(parts)
    return f"Models shown to do better than guessing: {known}. Differences between the others say little{average}."


def gaps(study: Study) -> list[str]:
    """What evaluations lack that are there: tasks without any score, and FLORES without COMET. One sentence each."""
    found = []
    for task in study.unscored:
        left_out = " It is in no average." if task in study.general and len(study.general) > 1 else ""
        kept = " (`judge` of the study), and run the study again: replies are kept" if study.is_judged(task) else ""
        found.append(f"{study.why_unscored(task)}{kept}.{left_out}")
    found += [
        f"{study.label(task)}: COMET has not scored {lacking} of {count} evaluations. Run `tutelage setup comet` and "
        "the study again: replies are kept."
        for task, (lacking, count) in study.without_comet.items()
    ]
    return found


class Choice(Enum):
    """What a comparison of the distilled arms with SFT says at one size."""

    USE = "at least one distilled arm was shown to beat SFT"
    SFT = "none was shown to beat SFT"
    WORSE = "all were shown to be worse than SFT"
    OPEN = "none was shown to beat SFT, but some are missing"


@dataclass(frozen=True)
class _SizeAnswer:
    """The answer at one size; successive sizes with the same `key` share one part of the sentence."""

    size: int
    choice: Choice | None = None  # None: nothing can be compared with SFT yet
    arm: Result | None = None  # the distilled arm with the best difference to SFT, among those shown to beat it if any
    missing: tuple[str, ...] = ()  # where the choice is open: the arms that are
    unscored: bool = False  # nothing can be compared since the task is unscored

    @property
    def key(self) -> tuple[Choice | None, tuple[str, ...], str]:
        return self.choice, self.missing, self.arm.arm.method if self.arm else ""


def _general(study: Study, student: str, task: str) -> list[Sentence]:
    """Ranges of sizes with one answer each, then what a stronger teacher would add."""
    sizes = study.sizes(task, ("sft", *SAME_DATA), student)
    per_size = [_answer_at(study, student, size, task) for size in sizes]
    parts: list[Part] = [f"{short(student)}: "]
    tones: set[Tone] = set()
    for index, (_, group) in enumerate(groupby(per_size, lambda one: one.key)):
        same = list(group)
        first, where = same[0], _range([one.size for one in same])
        parts.append("; " if index else "")
        if first.arm is None:
            unscored = "; ".join(study.why_unscored(one) for one in study.unscored)
            why = unscored if first.unscored else "cells are missing"
            parts.append(f"at {where} not known yet ({why})")
            continue
        tones.add("better" if first.choice is Choice.USE else "unclear")
        parts += [_advice(first, where, method_label(first.arm.arm, study)), *_evidence(study, same)]
    stronger = _stronger(study, student, task)
    start = [*parts, "."] if per_size else parts
    return [Sentence((*start, *stronger), "better" if "better" in tones else "unclear")] if per_size or stronger else []


def _answer_at(study: Study, student: str, size: int, task: str) -> _SizeAnswer:
    arms = [r for method in SAME_DATA if (r := study.find(student, method, size, task)) is not None]
    compared = [(r, versus) for r in arms if (versus := study.versus(r)) is not None]
    if not compared:
        return _SizeAnswer(size, unscored=task in study.unscored)
    better = [(r, v) for r, v in compared if significant(v) and v.difference > 0]
    arm, versus = max(better or compared, key=lambda pair: pair[1].difference)
    if better:
        return _SizeAnswer(size, Choice.USE, arm)
    missing = tuple(method_label(r.arm, study) for r in arms if r.is_missing)
    if missing:
        return _SizeAnswer(size, Choice.OPEN, arm, missing)
    return _SizeAnswer(size, Choice.WORSE if significant(versus) else Choice.SFT, arm)


def _advice(answer: _SizeAnswer, where: str, name: str) -> str:
    if answer.choice is Choice.USE:
        return f"at {where} use {name}: "
    if answer.choice is Choice.OPEN:
        missing = f"{' and '.join(answer.missing)} {'is' if len(answer.missing) == 1 else 'are'} missing"
        return f"at {where} not known yet, {missing}; of the rest "
    why = "nothing was shown to beat it" if answer.choice is Choice.SFT else "the rest was shown to be worse"
    return f"at {where} use SFT, {why}: "


def _evidence(study: Study, same: Sequence[_SizeAnswer]) -> list[Part]:
    """The arm's difference to SFT at the range's first size, and at its last where that is another."""
    strongest = same[0].choice is Choice.USE
    shown = [one.arm for one in (same[:1] if len(same) == 1 else (same[0], same[-1])) if one.arm]
    parts: list[Part] = []
    for result in shown:
        versus, reference = study.versus(result), study.reference(result)
        assert versus is not None
        assert reference is not None
        parts.append(", " if parts else "")
        if strongest and result is shown[0]:
            parts += [linked(result), " against ", linked(reference), ", "]
        label = "" if strongest or result is not shown[0] else f"{method_label(result.arm, study)} "
        where = f" at {size_text(result.arm.size)}" if len(shown) > 1 else ""
        parts += [label, Link(difference_text(versus), result.anchor), f" ({interval_text(versus)}){where}"]
    return parts


def _stronger(study: Study, student: str, task: str) -> list[Part]:
    """What a stronger teacher adds, at the largest size that is evaluated; [] where none is."""
    planned = [(s, study.find(student, "gkd_it", s, task)) for s in study.sizes(task, ("gkd_it",), student)]
    there = [(s, result) for s, result in planned if result is not None and not result.is_missing]
    size, result = there[-1] if there else (None, None)
    same = study.find(student, "gkd_sft", size, task) or study.find(student, "gkd_base", size, task)
    versus = study.compare(result, same)
    against = "above the same-data teacher's student"
    if versus is None:
        versus, against = study.versus(result), "above SFT"
    if result is None or versus is None:
        return []
    teacher = f" ({short(result.arm.teacher)})" if result.arm.teacher else ""
    verdict = ": no difference was shown"
    if significant(versus):
        verdict = ": use it if you have one" if versus.difference > 0 else ": it is worse"
    return [
        f" With a stronger teacher{teacher} at {size_text(size)}, GKD-IT scores ", linked(result), ", ",
        Link(difference_text(versus), result.anchor), f" ({interval_text(versus)}) {against}{verdict}.",
    ]  # fmt: skip


def _domain(study: Study, task: str) -> Sentence | None:
    """One sentence per task, in which students with the same answer are named together."""
    chosen: dict[str, list[tuple[Result, Paired]]] = {}
    for student in study.students:
        arms = [r for (arm, t), r in study.results.items() if t == task and arm.student == student]
        compared = [(r, v) for r in arms if (v := study.versus(r)) is not None]
        if compared:
            best = max(compared, key=lambda pair: pair[1].difference)
            shown = significant(best[1]) and best[1].difference > 0
            chosen.setdefault(method_label(best[0].arm, study) if shown else "", []).append(best)
    parts: list[Part] = [f"{task_label(task)}: "]
    for index, (name, found) in enumerate(chosen.items()):
        parts += ["; " if index else "", f"use {name}: " if name else "use SFT, nothing was shown to beat it: "]
        for place, (result, versus) in enumerate(found):
            rows = f", {size_text(result.arm.size)} synthetic rows" if result.arm.method in SYNTHETIC else ""
            what = "" if name else f"{method_label(result.arm, study)} "
            parts += [", " if place else "", f"{short(result.arm.student)} {what}", linked(result), " (",
                      Link(difference_text(versus), result.anchor), f", {interval_text(versus)}{rows})"]  # fmt: skip
    return Sentence((*parts, "."), "better" if any(chosen) else "unclear") if chosen else None


def _range(sizes: Sequence[int]) -> str:
    return size_text(sizes[0]) if len(sizes) == 1 else f"{size_text(sizes[0])}–{size_text(sizes[-1])}"
