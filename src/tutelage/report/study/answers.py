"""The study's answers in words. A sentence is a list of texts and of links to the cells that its numbers are from."""

from __future__ import annotations

from collections.abc import Sequence
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
    average = ", also within the average" if len(study.general) > 1 else ""
    known = ", ".join(parts)
    return f"Models shown to do better than guessing: {known}. Differences between the others say little{average}."


def _general(study: Study, student: str, task: str) -> list[Sentence]:
    """Ranges of sizes with one answer each, then what a stronger teacher would add."""
    choices = [(size, *_choice(study, student, size, task)) for size in study.sizes(task, ("sft", *SAME_DATA), student)]
    parts: list[Part] = [f"{short(student)}: "]
    tones: set[Tone] = set()
    for index, ((kind, _), group) in enumerate(
        groupby(choices, lambda one: (one[1], one[2].arm.method if one[2] else ""))
    ):
        ranges = list(group)
        size = _range([one[0] for one in ranges])
        parts.append("; " if index else "")
        best = ranges[0][2]
        if kind == "unknown" or best is None:
            parts.append(f"at {size} not known yet (cells are missing)")
            continue
        tones.add("better" if kind == "use" else "unclear")
        name = method_label(best.arm, study)
        if kind == "use":
            parts.append(f"at {size} use {name}: ")
        elif kind.startswith("open"):
            parts.append(f"at {size} not known yet, {kind.removeprefix('open ')} missing; of the rest ")
        else:
            why = "nothing was shown to beat it" if kind == "sft" else "the rest was shown to be worse"
            parts.append(f"at {size} use SFT, {why}: ")
        parts += _evidence(study, best, ranges, strongest=kind == "use")
    stronger = _stronger(study, student, task)
    start = [*parts, "."] if choices else parts
    return [Sentence((*start, *stronger), "better" if "better" in tones else "unclear")] if choices or stronger else []


def _choice(study: Study, student: str, size: int, task: str) -> tuple[str, Result | None]:
    """use: a distilled arm shown to beat SFT; sft: none shown to (the nearest is returned); worse: all shown worse;
    open: none shown to, but some are missing."""
    arms = [r for method in SAME_DATA if (r := study.find(student, method, size, task)) is not None]
    compared = [(r, versus) for r in arms if (versus := study.versus(r)) is not None]
    if not compared:
        return "unknown", None
    better = [(r, v) for r, v in compared if significant(v) and v.difference > 0]
    best = max(better or compared, key=lambda pair: pair[1].difference)
    if better:
        return "use", best[0]
    lacking = [method_label(r.arm, study) for r in arms if r.is_missing]
    if lacking:
        return f"open {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'}", best[0]
    return ("worse" if significant(best[1]) else "sft"), best[0]


def _evidence(
    study: Study, best: Result, ranges: Sequence[tuple[int, str, Result | None]], strongest: bool = False
) -> list[Part]:
    """The arm's difference to SFT at the range's first size, and at its last where that is another."""
    shown = [result for _, _, result in (ranges[:1] if len(ranges) == 1 else (ranges[0], ranges[-1])) if result]
    parts: list[Part] = []
    for result in shown:
        versus = study.versus(result)
        assert versus is not None
        reference = study.reference(result)
        assert reference is not None
        parts.append(", " if parts else "")
        if strongest and result is shown[0]:
            parts += [linked(result), " against ", linked(reference), ", "]
        label = "" if strongest or result is not shown[0] else f"{method_label(best.arm, study)} "
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
    """One sentence a task: the students that have the same answer together."""
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
