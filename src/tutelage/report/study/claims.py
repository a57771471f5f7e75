"""What the paper claims, and whether the study's numbers say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tutelage.evaluation.metrics import lower_is_better
from tutelage.evaluation.statistics import Paired, Scores, paired_bootstrap, significant
from tutelage.report.labels import short, size_text, task_label
from tutelage.report.numbers import difference_text
from tutelage.report.study.results import Result, Study, headline_task, largest
from tutelage.report.study.sentences import Link, Part, Sentence, evidence_text

Outcome = Literal["held", "held in part", "did not hold", "not shown", "mixed", "not tested"]
Predicted = Literal["more", "no less", "equal"]
EQUAL_WITHIN = 1.0  # points; table 1 itself has 0.99 between GKD and SeqKD
EQUAL_HELD_OUT = 0.02  # nats per token, 2 % in perplexity


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, what the study says of it, and one sentence per comparison."""

    text: str
    outcome: Outcome
    evidence: tuple[Sentence, ...]
    measure: str = ""  # a held-out measure; empty: the tasks' scores, as in the paper


@dataclass(frozen=True)
class _Test:
    """One comparison that tests a claim."""

    where: str
    versus: Paired
    result: Result
    predicted: Predicted = "more"

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.result.metric)


def claims(study: Study) -> list[Claim]:
    """The paper's five claims about general data, then those about domain tasks that the study has; then the five again
    by held-out loss, which tells small models apart where tasks cannot. (Not by the KL to the teacher: each size has
    its own teacher.)"""
    task, points = headline_task(study), f"{EQUAL_WITHIN:g} point"
    lacking = [study.why_unscored(one) for one in study.general if one in study.unscored]
    found = [_claim(text.format(points), test(study, task) if task else [], lacking) for text, test in GENERAL.items()]
    if study.domain:
        lacking = [study.why_unscored(one) for one in study.domain if one in study.unscored]
        found += [_claim(text, test(study), lacking) for text, test in DOMAIN.items()]
    nats = f"{EQUAL_HELD_OUT:g} nats per token"
    for measure in (one for one in study.held_out if "kl" not in one.lower()):
        tested = [(text.format(nats), test(study, measure)) for text, test in GENERAL.items()]
        found += [_claim(text, tests, measure=task_label(measure)) for text, tests in tested if tests]
    return found


def _claim(text: str, tests: Sequence[_Test], lacking: Sequence[str] = (), measure: str = "") -> Claim:
    """`lacking`: which tasks are unscored and why, as sentences without a full stop."""
    outcomes = {_outcome(test) for test in tests}
    unscored = tuple(Sentence((f"{one}.",)) for one in lacking)
    if not tests:
        none = Sentence(("The study has no evaluated cells for it.",))
        return Claim(text, "not tested", unscored or (none,), measure)
    if outcomes == {"held"}:
        outcome: Outcome = "held"
    elif "held" in outcomes:
        outcome = "mixed" if "did not hold" in outcomes else "held in part"
    else:
        outcome = "did not hold" if "did not hold" in outcomes else "not shown"
    return Claim(text, outcome, (*(_sentence(test) for test in tests), *unscored), measure)


def _outcome(test: _Test) -> Outcome:
    sign, within = (-1.0, EQUAL_HELD_OUT) if test.lower_is_better else (1.0, EQUAL_WITHIN)
    better, (low, high) = sign * test.versus.difference, sorted((sign * test.versus.low, sign * test.versus.high))
    shown = significant(test.versus)
    if test.predicted == "equal":
        return "held" if low > -within and high < within else "did not hold" if shown else "not shown"
    if test.predicted == "no less" and low > -within:
        return "held"
    if shown:
        return "held" if better > 0 else "did not hold"
    return "not shown"


def _sentence(test: _Test) -> Sentence:
    outcome = _outcome(test)
    tone = "better" if outcome == "held" else "worse" if outcome == "did not hold" else "unclear"
    link = Link(difference_text(test.versus), test.result.anchor)
    parts: tuple[Part, ...] = (f"{test.where}: ", link, f" {evidence_text(test.versus)}: {outcome}.")
    return Sentence(parts, tone)


def _little_data(study: Study, task: str) -> list[_Test]:
    tests = []
    for student in study.students:
        for size in study.sizes(task, ("gkd_sft",), student)[:1]:
            result = study.find(student, "gkd_sft", size, task)
            where = f"{short(student)} at {size_text(size)}, GKD against SFT"
            tests += _tested(study.versus(result), result, where)
            long = study.find(student, "sft_long", size, task)  # what the longer training gives by itself
            tests += _tested(study.compare(result, long), result, f"{where} of as many steps")
    return tests


def _gap_closes(study: Study, task: str) -> list[_Test]:
    """The gap at the smallest size minus that at the largest, all four arms on the same examples."""
    tests = []
    for student in study.students:
        sizes = study.sizes(task, ("gkd_sft",), student)
        if len(sizes) < 2:
            continue
        small, large = (study.find(student, "gkd_sft", size, task) for size in (sizes[0], sizes[-1]))
        four = [small, study.reference(small) if small else None, large, study.reference(large) if large else None]
        there = [one for one in four if one is not None and not one.is_missing]
        if len(there) < 4 or small is None:
            continue
        where = f"{short(student)}, gap at {size_text(sizes[0])} minus gap at {size_text(sizes[-1])}"
        tests += _tested(_gap_difference(there), small, where)
    return tests


def _gap_difference(four: Sequence[Result]) -> Paired | None:
    """(a − b) − (c − d); seeds are paired where all four have the same, else averaged first."""
    same = len({one.seeds for one in four}) == 1
    a, b, c, d = (_by_seed_or_mean(one.scores, same) for one in four)
    found = paired_bootstrap(a - b, c - d, paired_seeds=same and len(four[0].seeds) > 1)
    return None if np.isnan(found.difference) else found


def _start(study: Study, task: str) -> list[_Test]:
    """SFT-S against Base-S, over all sizes that have both."""
    tests = []
    for student in study.students:
        pairs = []
        for size in study.sizes(task, ("gkd_base",), student):
            pair = [study.find(student, method, size, task) for method in ("gkd_sft", "gkd_base")]
            there = [one for one in pair if one is not None and not one.is_missing]
            if len(there) == 2:
                pairs.append(there)
        if not pairs:
            continue
        seeds = {one.seeds for pair in pairs for one in pair}
        left, right = (
            np.mean([_by_seed_or_mean(pair[side].scores, len(seeds) == 1) for pair in pairs], axis=0) for side in (0, 1)
        )
        found = paired_bootstrap(left, right, paired_seeds=len(left) > 1)
        where = f"{short(student)}, mean of {len(pairs)} size{'s' if len(pairs) > 1 else ''}, SFT-S against Base-S"
        tests += _tested(None if np.isnan(found.difference) else found, pairs[0][0], where, "no less")
    return tests


def _by_seed_or_mean(scores: Scores, by_seed: bool) -> Scores:
    """[S, C] as it is, or the mean over seeds, [1, C]."""
    return scores if by_seed else scores.mean(0, keepdims=True)


def _stronger(study: Study, task: str) -> list[_Test]:
    return _at_largest(study, task, "gkd_it", "GKD-IT against GKD")


def _seqkd(study: Study, task: str) -> list[_Test]:
    return _at_largest(study, task, "seqkd", "SeqKD against GKD", predicted="equal")


def _at_largest(study: Study, task: str, method: str, words: str, predicted: Predicted = "more") -> list[_Test]:
    tests = []
    for student in study.students:
        for size in study.sizes(task, (method,), student)[-1:]:
            result = study.find(student, method, size, task)
            versus = study.compare(result, study.find(student, "gkd_sft", size, task))
            tests += _tested(versus, result, f"{short(student)} at {size_text(size)}, {words}", predicted)
    return tests


def _distilling_domain(study: Study) -> list[_Test]:
    return _domain_tests(study, "gkd_sft", "sft", "GKD against SFT")


def _mixing(study: Study) -> list[_Test]:
    return _domain_tests(study, "mix", "sft", "Mix against SFT")


def _two_stages(study: Study) -> list[_Test]:
    return _domain_tests(study, "two_stage", "mix", "two stages against Mix")


def _domain_tests(study: Study, method: str, other: str, words: str) -> list[_Test]:
    tests = []
    for task in study.domain:
        for student in study.students:
            result, against = largest(study, student, method, task), largest(study, student, other, task)
            versus = study.compare(result, against)
            tests += _tested(versus, result, f"{short(student)} on {task_label(task)}, {words}")
    return tests


def _tested(versus: Paired | None, result: Result | None, where: str, predicted: Predicted = "more") -> list[_Test]:
    return [_Test(where, versus, result, predicted)] if versus is not None and result is not None else []


GENERAL: dict[str, Callable[[Study, str], list[_Test]]] = {
    "Distilling beats SFT with little data": _little_data,
    "The gap closes as data grow": _gap_closes,
    "Starting from the SFT student is no worse than from the base (by {})": _start,
    "A stronger teacher restores the gain at full size": _stronger,
    "SeqKD equals GKD at full size (within {})": _seqkd,
}
DOMAIN: dict[str, Callable[[Study], list[_Test]]] = {
    "Distilling beats SFT on domain tasks": _distilling_domain,
    "Mixing in synthetic data beats SFT": _mixing,
    "Two stages beat mixing": _two_stages,
}
