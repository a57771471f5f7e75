"""The study's answers in words. A sentence is a list of texts and of links to the cells that its numbers are from.

An answer chooses among arms and sizes, so the p-values of all comparisons that it chose among are corrected together by
Holm's method. Every comparison is with the same reference (`Study.reference`), but for what a stronger teacher adds to
the same-data teacher's student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from tutelage.common.errors import listed
from tutelage.evaluation.records import read_result
from tutelage.evaluation.statistics import SIGNIFICANT, Paired, holm
from tutelage.report.labels import AVERAGE, method_name, short, size_text, task_label
from tutelage.report.numbers import Tone, difference_text, interval_text
from tutelage.report.scores import is_evaluated
from tutelage.report.study.results import CONTROLS, SAME_DATA, SYNTHETIC, Result, Study
from tutelage.report.study.sentences import Link, Part, Sentence, arm_label, linked, method_label

AGAIN = "sft_again"
LONGER = (*SYNTHETIC, "seqkd", "sft_long")  # they have more rows, several answers per row, or more epochs


@dataclass(frozen=True)
class _Compared:
    """One of the comparisons that an answer chooses among."""

    result: Result
    versus: Paired
    p_value: float  # corrected for all of them

    @property
    def shown(self) -> bool:
        return self.p_value < SIGNIFICANT

    @property
    def better(self) -> bool:
        return self.shown and self.versus.difference > 0


def answers(study: Study) -> list[Sentence]:
    """Which method to use at which size, for each student; then which for each domain task."""
    found: list[Sentence] = []
    for student in study.students:
        found += _general(study, student, study.headline(student))
    found += [s for domain in study.domain if (s := _domain(study, domain)) is not None]
    return found or [Sentence(("The study has no cells that could be compared with SFT.",))]


def yardstick(study: Study) -> Sentence:
    """What every arm is compared with, and where the control of equal training is missing."""
    used = [(r, ref) for r in study.results.values() if not r.of and r.arm.method != AGAIN
            and (ref := study.reference(r)) is not None]  # fmt: skip
    names = list(dict.fromkeys(method_label(reference.arm, study) for _, reference in used))
    if not used:
        return Sentence(("Nothing in the study can be compared with SFT.",))
    without = [r for r, reference in used if reference.arm.method != AGAIN]
    start = f"Every arm is compared with {' or '.join(names)} of the same student on the same data"
    what = "SFT, then as much SFT again with a fresh schedule"
    if not without:
        longer = [method_name(m) for m in dict.fromkeys(r.arm.method for r, ref in used if _trains_longer(r, ref))]
        but = f"; but {', '.join(longer)} may train for more" if longer else ""
        return Sentence((f"{start}: {what}. So no gain is that of more steps{but}.",))
    places = dict.fromkeys(f"{short(r.arm.student)} at {size_text(r.arm.size)}" for r in without)
    where = "" if len(without) == len(used) else f" for {', '.join(places)}"
    there = " there" if where else ""
    return Sentence((f"{start}. The control is missing{where} ({what}): a gain{there} may be that of more steps.",))


def _trains_longer(result: Result, reference: Result) -> bool:
    """Whether an arm trained for more steps than its reference; where that is not known, whether its method may."""
    steps = [[cell.steps for cell in one.cells if cell.steps is not None] for one in (result, reference)]
    return max(steps[0]) > max(steps[1]) if all(steps) else result.arm.method in LONGER


def left_out(study: Study) -> list[Sentence]:
    """Tasks that no advice is given from, and why; one sentence for all students with the same."""
    found: dict[str, list[str]] = {}
    for student in study.students:
        tasks = "; ".join(f"{task_label(task)} ({why})" for task, why in study.left_out(student).items())
        found.setdefault(tasks, []).append(short(student))
    return [Sentence((f"Left out for {', '.join(names)}: {tasks}.",)) for tasks, names in found.items() if tasks]


def _compared(study: Study, results: Sequence[Result]) -> list[_Compared]:
    """The results that can be compared with their reference, their p-values corrected together."""
    pairs = [(result, versus) for result in results if (versus := study.versus(result)) is not None]
    corrected = holm([versus.p_value for _, versus in pairs])
    return [_Compared(result, versus, p) for (result, versus), p in zip(pairs, corrected, strict=True)]


def gaps(study: Study) -> list[str]:
    """What evaluations lack that are there: tasks without any score, FLORES without COMET, arms with one of several
    seeds. One sentence each."""
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
    tasks: dict[str, list[str]] = {}
    for one in study.results.values():
        if not one.of and len(one.seeds) == 1 and one.missing:
            tasks.setdefault(arm_label(one.arm, study), []).append(study.label(one.task))
    alone = [f"{arm} on {of[0] if len(of) == 1 else f'{len(of)} tasks'}" for arm, of in tasks.items()]
    if alone:
        found.append(
            f"One training run so far: {listed(alone, between='; ')}. What is said of these does not cover other seeds."
        )
    return found


def endless(study: Study) -> list[str]:
    """Evaluations in which most replies ran to their limit and were scored as they were cut, in one sentence: a model
    that no longer ends its replies has other faults than its method, and one such seed widens every interval."""
    found: dict[str, float] = {}
    for result in study.results.values():
        for cell in result.cells:
            if result.of or not is_evaluated(cell.folder):
                continue
            said = read_result(cell.folder)
            cut, replies = said.get("cut") or 0, said.get("n") or 0
            if cut > replies / 2:
                seed = "" if result.arm.method == "base" else f", seed {cell.seed}"
                where = f"{arm_label(result.arm, study)} on {study.label(result.task)}{seed}"
                found[f"{where} ({cut} of {replies})"] = cut / replies
    if not found:
        return []
    most = sorted(found, key=lambda name: -found[name])
    return [
        "Most replies ran to their limit and were scored as they were cut (the model hardly ends its replies, or needs "
        f"a larger limit): {listed(most, between='; ')}."
    ]


class Choice(Enum):
    """What the comparisons of the distilled arms with the reference say at one size."""

    USE = "at least one distilled arm was shown to beat the reference"
    SFT = "none was shown to beat it"
    WORSE = "all were shown to be worse"
    OPEN = "none was shown to beat it, but some have no score"


@dataclass(frozen=True)
class _SizeAnswer:
    """The answer at one size; successive sizes with the same `key` share one part of the sentence."""

    size: int | None
    choice: Choice | None = None  # None: nothing can be compared yet
    arm: Result | None = None  # the distilled arm with the largest difference, among those shown to be better if any
    missing: tuple[str, ...] = ()  # where the choice is open: the arms without a score
    fallback: str = "SFT"  # what to use where nothing was shown to beat the reference
    unscored: tuple[str, ...] = ()  # tasks for lack of whose scores nothing can be compared

    @property
    def key(self) -> tuple[Choice | None, tuple[str, ...], str]:
        using = self.arm is not None and self.choice is Choice.USE
        lacking = self.missing or self.unscored
        return self.choice, lacking, self.arm.arm.method if self.arm and using else self.fallback


def _general(study: Study, student: str, task: str) -> list[Sentence]:
    """Ranges of sizes with one answer each, then what a stronger teacher would add."""
    results = study.having(student, (*CONTROLS, *SAME_DATA), task)
    compared = _compared(study, results)
    per_size = [_answer_at(study, size, results, compared) for size in study.sizes(task, ("sft", *SAME_DATA), student)]
    name = study.label(task).replace(task_label(AVERAGE), "average")
    by = f" by {name}" if len(study.general) > 1 and name != "average" else ""
    parts: list[Part] = [f"{short(student)}{by}: "]
    tones: set[Tone] = set()
    for index, (_, group) in enumerate(groupby(per_size, lambda one: one.key)):
        same = list(group)
        first, where = same[0], _range([one.size for one in same])
        parts.append("; " if index else "")
        if first.arm is None:
            why = "; ".join(map(study.why_unscored, first.unscored)) or _lacking(results, [one.size for one in same])
            parts.append(f"at {where} not known yet ({why})")
            continue
        tones.add("better" if first.choice is Choice.USE else "unclear")
        parts += [_advice(first, where, method_label(first.arm.arm, study)), *_evidence(study, same)]
    stronger = _stronger(study, student, task, [one.versus.p_value for one in compared])
    start = [*parts, f".{_family(compared)}"] if per_size else parts
    return [Sentence((*start, *stronger), "better" if "better" in tones else "unclear")] if per_size or stronger else []


def _lacking(results: Sequence[Result], sizes: Sequence[int | None]) -> str:
    """Why nothing can be compared: cells are missing, or no method has a name by which arms are known."""
    planned = {one.arm.method for one in results if one.arm.size in sizes}
    for known in (CONTROLS[::-1], SAME_DATA):
        if not planned.intersection(known):
            return f"no method of the study is called {' or '.join(known)}"
    return "cells are missing"


def _answer_at(
    study: Study, size: int | None, results: Sequence[Result], all_sizes: Sequence[_Compared]
) -> _SizeAnswer:
    results = [one for one in results if one.arm.size == size]
    here = [one for one in all_sizes if one.result.arm.size == size]
    compared = [one for one in here if one.result.arm.method != AGAIN]
    if not compared:
        unscored = dict.fromkeys(one.task for r in results for one in r.of or (r,) if one.is_unscored)
        return _SizeAnswer(size, unscored=tuple(unscored))
    better, fallback = [one for one in compared if one.better], _fallback(here)
    best = max(better or compared, key=lambda one: one.versus.difference)
    if better:
        return _SizeAnswer(size, Choice.USE, best.result)
    missing = tuple(method_label(r.arm, study) for r in results if r.arm.method in SAME_DATA and r.is_missing)
    if missing:
        return _SizeAnswer(size, Choice.OPEN, best.result, missing)
    choice = Choice.WORSE if all(one.shown for one in compared) else Choice.SFT
    return _SizeAnswer(size, choice, best.result, (), fallback)


def _fallback(compared: Sequence[_Compared]) -> str:
    """SFT, which costs least to train, and why it is named; SFT again where that was shown to beat it."""
    better = any(one.better for one in compared if one.result.arm.method == AGAIN)
    return method_name(AGAIN) if better else f"{method_name('sft')}, the cheapest to train"


def _advice(answer: _SizeAnswer, where: str, name: str) -> str:
    if answer.choice is Choice.USE:
        return f"at {where} use {name}: "
    if answer.choice is Choice.OPEN:
        lacking = f"{' and '.join(answer.missing)} {'has' if len(answer.missing) == 1 else 'have'} no score"
        return f"at {where} not known yet, {lacking}; of the rest "
    why = "nothing was shown to beat it" if answer.choice is Choice.SFT else "the rest was shown to be worse"
    return f"at {where} use {answer.fallback}, {why}: "


def _evidence(study: Study, same: Sequence[_SizeAnswer]) -> list[Part]:
    """The named arm's difference to the reference at the range's first size, and at its last where that is another;
    where no arm is named, the largest difference in the range."""
    using, arms = same[0].choice is Choice.USE, [one.arm for one in same if one.arm]
    found = [(arm, versus) for arm in arms if (versus := study.versus(arm)) is not None]
    largest = max(found, key=lambda pair: pair[1].difference)
    shown = [largest] if not using else found[:1] if len(found) == 1 else [found[0], found[-1]]
    parts: list[Part] = []
    for place, (result, versus) in enumerate(shown):
        reference = study.reference(result)
        assert reference is not None
        parts.append(", " if place else "")
        if using and not place:
            parts += [linked(result), f" against {method_label(reference.arm, study)}'s ", linked(reference), ", "]
        label = "" if using else f"{method_label(result.arm, study)} "
        where = f" at {size_text(result.arm.size)}" if len(same) > 1 else ""
        parts += [label, Link(difference_text(versus), result.anchor), f" ({interval_text(versus)}){where}"]
    return parts


def _family(compared: Sequence[_Compared]) -> str:
    count = len(compared)
    return f" (Holm's correction for {count} comparisons.)" if count > 1 else ""


def _stronger(study: Study, student: str, task: str, beside: Sequence[float]) -> list[Part]:
    """What a stronger teacher adds, at the largest size that is evaluated; [] where none is.

    `beside`: the p-values of the student's other comparisons, with which this one is corrected.
    """
    planned = [(s, study.find(student, "gkd_it", s, task)) for s in study.sizes(task, ("gkd_it",), student)]
    there = [(s, result) for s, result in planned if result is not None and not result.is_missing]
    size, result = there[-1] if there else (None, None)
    if result is None:
        return []
    same = study.find(student, "gkd_sft", size, task) or study.find(student, "gkd_base", size, task)
    versus = study.compare(result, same)
    against = "against the same-data teacher's student"
    if versus is None:
        versus, reference = study.versus(result), study.reference(result)
        against = f"against {method_label(reference.arm, study)}" if reference is not None else ""
    if versus is None:
        return []
    teacher = f" ({short(result.arm.teacher)})" if result.arm.teacher else ""
    verdict = ": no difference was shown"
    if holm([*beside, versus.p_value])[-1] < SIGNIFICANT:
        verdict = ": use it if you have one" if versus.difference > 0 else ": it is worse"
    return [
        f" With a stronger teacher{teacher} at {size_text(size)}, GKD-IT scores ", linked(result), ", ",
        Link(difference_text(versus), result.anchor), f" ({interval_text(versus)}) {against}{verdict}.",
    ]  # fmt: skip


def _domain(study: Study, task: str) -> Sentence | None:
    """One sentence per task, in which students with the same answer are named together."""
    students = [student for student in study.students if task not in study.left_out(student)]
    methods = {arm.method for arm in study.arms} - {"sft", "sft_long", "teacher", "base"}
    compared = _compared(study, [r for student in students for r in study.having(student, methods, task)])
    chosen: dict[str, list[_Compared]] = {}
    for student in students:
        here = [one for one in compared if one.result.arm.student == student]
        own = [one for one in here if one.result.arm.method != AGAIN]
        if own:
            best = max([one for one in own if one.better] or own, key=lambda one: one.versus.difference)
            reference = study.reference(best.result)
            on_gkd = reference is not None and reference.arm.method == "gkd_sft"
            other = f"use {'GKD' if on_gkd else _fallback(here)}, nothing was shown to beat it: "
            name = f"use {method_label(best.result.arm, study)}: " if best.better else other
            chosen.setdefault(name, []).append(best)
    parts: list[Part] = [f"{task_label(task)}: "]
    for index, (name, found) in enumerate(chosen.items()):
        parts += ["; " if index else "", name]
        for place, one in enumerate(found):
            result = one.result
            rows = f", {size_text(result.arm.size)} synthetic rows" if result.arm.method in SYNTHETIC else ""
            what = "" if one.better else f"{method_label(result.arm, study)} "
            parts += [", " if place else "", f"{short(result.arm.student)} {what}", linked(result), " ("]
            parts += [Link(difference_text(one.versus), result.anchor), f", {interval_text(one.versus)}{rows})"]
    tone: Tone = "better" if any(one.better for found in chosen.values() for one in found) else "unclear"
    return Sentence((*parts, f".{_family(compared)}"), tone) if chosen else None


def _range(sizes: Sequence[int | None]) -> str:
    return size_text(sizes[0]) if len(sizes) == 1 else f"{size_text(sizes[0])}–{size_text(sizes[-1])}"
