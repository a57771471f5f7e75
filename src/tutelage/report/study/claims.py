"""What the paper claims, and whether the study's numbers say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from tutelage.evaluation.metrics import has_word, lower_is_better
from tutelage.evaluation.statistics import Paired, Scores, paired_bootstrap, significant
from tutelage.report.labels import short, size_text, task_label
from tutelage.report.numbers import difference_text
from tutelage.report.study.power import Question, needed, needed_text
from tutelage.report.study.results import CONTROLS, Result, Study, largest, paper_value
from tutelage.report.study.sentences import Link, Part, Sentence, evidence_text, method_label

Outcome = Literal["held", "did not hold", "could not be told"]
TaskOf = Callable[[str], str]  # student → task
SMALLEST = 1.0  # points: the smallest effect that counts, and the margin of "no worse" and "equals"
SMALLEST_HELD_OUT = 0.02  # the same in nats per token, 2 % in perplexity


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, what the study says of it, and one sentence per comparison: one refutes it."""

    text: str
    outcome: Outcome
    evidence: tuple[Sentence, ...]
    measure: str = ""  # a held-out measure; empty: the tasks' scores, as in the paper
    counts: str = ""  # at how many places what was found, where there are several


@dataclass(frozen=True)
class _Test:
    """One comparison that tests a claim."""

    where: str
    versus: Paired
    result: Result
    question: Question = "more"
    paper: float | None = None  # the paper's effect at this place
    seeds: int = 0  # behind the comparison; 0: all of the result's

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.result.metric)

    @property
    def smallest(self) -> float:
        return SMALLEST_HELD_OUT if self.lower_is_better else SMALLEST

    @property
    def effect(self) -> float:
        """The effect that more data are to tell: the paper's if it is larger than the smallest that counts."""
        paper = self.paper if self.question == "more" and self.paper is not None else 0.0
        return max(paper, self.smallest)


def claims(study: Study) -> list[Claim]:
    """The paper's five claims about general data, then those about domain tasks that the study has; then the five again
    by held-out loss, which tells small models apart where tasks cannot. (Not by the KL to the teacher: each size has
    its own teacher.)"""
    points, lacking = f"{SMALLEST:g} point", [study.why_unscored(one) for one in study.general if one in study.unscored]
    found = [_claim(text.format(points), test(study, study.headline), lacking) for text, test in GENERAL.items()]
    if study.domain:
        lacking = [study.why_unscored(one) for one in study.domain if one in study.unscored]
        found += [_claim(text, test(study), lacking) for text, test in DOMAIN.items()]
    nats = f"{SMALLEST_HELD_OUT:g} nats per token"
    for measure in (one for one in study.held_out if not has_word(one.rpartition(": ")[2], "kl")):
        tested = [(text.format(nats), test(study, lambda _, m=measure: m)) for text, test in GENERAL.items()]
        found += [_claim(text, tests, measure=task_label(measure)) for text, tests in tested if tests]
    return found


def _claim(text: str, tests: Sequence[_Test], lacking: Sequence[str] = (), measure: str = "") -> Claim:
    """`lacking`: which tasks are unscored and why, as sentences without a full stop."""
    unscored = tuple(Sentence((f"{one}.",)) for one in lacking)
    if not tests:
        none = Sentence(("The study has no evaluated cells for it.",))
        return Claim(text, "could not be told", unscored or (none,), measure)
    outcomes: list[Outcome] = [_outcome(test, len(tests)) for test in tests]
    whole: Outcome = "could not be told"
    if "did not hold" in outcomes:
        whole = "did not hold"
    elif set(outcomes) == {"held"}:
        whole = "held"
    parts = [f"{one} at {outcomes.count(one)}" for one in dict.fromkeys(outcomes)]
    counts = f"{', '.join(parts)} of {len(tests)} places" if len(parts) > 1 else ""
    return Claim(text, whole, (*map(_sentence, tests, outcomes), *unscored), measure, counts)


def _outcome(test: _Test, count: int) -> Outcome:
    """What the interval says. Held: all of it is on the claim's side, or within the margin. Did not hold: all of it, as
    wide as `count` looks for a counterexample need (Bonferroni), is where the smallest effect is not, or outside the
    margin. Else both are possible."""
    sign = -1.0 if test.lower_is_better else 1.0
    versus, margin = test.versus, test.smallest
    middle, (low, high) = sign * versus.difference, sorted((sign * versus.low, sign * versus.high))
    normal = NormalDist()
    wider = normal.inv_cdf(1 - 0.025 / count) / normal.inv_cdf(0.975)
    lowest, highest = middle - wider * (middle - low), middle + wider * (high - middle)
    if test.question == "more":
        held, refuted = significant(versus) and middle > 0, highest < margin
    elif test.question == "no less":
        held, refuted = low > -margin, highest < -margin
    else:
        held, refuted = -margin < low and high < margin, highest < -margin or lowest > margin
    return "held" if held else "did not hold" if refuted else "could not be told"


def _sentence(test: _Test, outcome: Outcome) -> Sentence:
    tone = "better" if outcome == "held" else "worse" if outcome == "did not hold" else "unclear"
    link = Link(difference_text(test.versus), test.result.anchor)
    more = ""
    if outcome == "could not be told":
        seeds = test.seeds or len(test.result.seeds)
        found = needed(test.versus, seeds, test.effect, test.question)
        unit = "nats per token" if test.lower_is_better else "point" if test.effect == 1 else "points"
        whose = " (the paper's)" if test.effect > test.smallest else ""
        more = f"; {needed_text(found, seeds, test.result.examples, f'{test.effect:.3g} {unit}{whose}')}"
    parts: tuple[Part, ...] = (f"{test.where}: ", link, f" {evidence_text(test.versus)}: {outcome}{more}.")
    return Sentence(parts, tone)


def _little_data(study: Study, task_of: TaskOf) -> list[_Test]:
    tests = []
    for student in study.students:
        task = task_of(student)
        for size in study.sizes(task, ("gkd_sft",), student)[:1]:
            result = study.find(student, "gkd_sft", size, task)
            where = f"{short(student)} at {size_text(size)}, GKD against"
            tests += _against_reference(study, result, where, _paper_gain(study, result))
    return tests


def _gap_closes(study: Study, task_of: TaskOf) -> list[_Test]:
    """The gap at the smallest size minus that at the largest, all four arms on the same examples, both gaps to the same
    method."""
    tests = []
    for student in study.students:
        task = task_of(student)
        sizes = study.sizes(task, ("gkd_sft",), student)
        if len(sizes) < 2:
            continue
        small, large = (study.find(student, "gkd_sft", size, task) for size in (sizes[0], sizes[-1]))
        pairs = [[study.find(student, method, size, task) for size in (sizes[0], sizes[-1])] for method in CONTROLS]
        both = next((pair for pair in pairs if all(pair)), [None, None])
        there = [one for one in (small, both[0], large, both[1]) if one is not None and not one.is_missing]
        if len(there) < 4 or small is None:
            continue
        first, last = _paper_gain(study, small), _paper_gain(study, large)
        where = f"{short(student)}, gap to {method_label(there[1].arm, study)} at {size_text(sizes[0])} minus gap at"
        (a, b, c, d), seeds = _of_common_seeds(there)
        found = _paired_differences(a - b, c - d)
        tests += _tested(found, small, f"{where} {size_text(sizes[-1])}{_which(seeds, there)}", "more",
                         None if first is None or last is None else first - last, len(seeds))  # fmt: skip
    return tests


def _paper_gain(study: Study, result: Result | None) -> float | None:
    """The paper's difference of the same arm to SFT."""
    if result is None:
        return None
    sft = study.find(result.arm.student, "sft", result.arm.size, result.task)
    sft = sft or study.on_gold(result.arm.student, "sft", result.task)
    arm, other = paper_value(study, result), paper_value(study, sft)
    return None if arm is None or other is None else arm - other


def _of_common_seeds(results: Sequence[Result]) -> tuple[list[Scores], list[int | None]]:
    """The scores of each result, [S, C], for the S seeds that all of them have, and these seeds. A mean over the seeds
    that each has would hide how much seeds differ."""
    seeds = [seed for seed in results[0].seeds if all(seed in one.seeds for one in results)]
    return [one.scores[[one.seeds.index(seed) for seed in seeds]] for one in results], seeds


def _paired_differences(left: Scores, right: Scores) -> Paired | None:
    """Left minus right, seed by seed; None where no seed is in all, or too few examples are scored."""
    found = paired_bootstrap(left, right, paired_seeds=len(left) > 1) if len(left) else None
    return None if found is None or np.isnan(found.difference) else found


def _which(seeds: Sequence[int | None], results: Sequence[Result]) -> str:
    """How many seeds a comparison of several arms is made of, where some arm has more."""
    most = max(len(one.seeds) for one in results)
    return f" ({len(seeds)} of {most} seeds, those that all arms have)" if len(seeds) < most else ""


def _start(study: Study, task_of: TaskOf) -> list[_Test]:
    """SFT-S against Base-S, over all sizes that have both."""
    tests = []
    for student in study.students:
        task = task_of(student)
        pairs = []
        for size in study.sizes(task, ("gkd_base",), student):
            pair = [study.find(student, method, size, task) for method in ("gkd_sft", "gkd_base")]
            there = [one for one in pair if one is not None and not one.is_missing]
            if len(there) == 2:
                pairs.append(there)
        if not pairs:
            continue
        there = [one for pair in pairs for one in pair]
        scores, seeds = _of_common_seeds(there)
        found = _paired_differences(*(np.mean(scores[side::2], axis=0) for side in (0, 1)))
        where = f"{short(student)}, mean of {len(pairs)} size{'s' if len(pairs) > 1 else ''}, SFT-S against Base-S"
        where += _which(seeds, there)
        tests += _tested(found, pairs[0][0], where, "no less", seeds=len(seeds))
    return tests


def _stronger(study: Study, task_of: TaskOf) -> list[_Test]:
    return _at_largest(study, task_of, "gkd_it", "GKD-IT against GKD")


def _seqkd(study: Study, task_of: TaskOf) -> list[_Test]:
    return _at_largest(study, task_of, "seqkd", "SeqKD against GKD", question="equal")


def _at_largest(study: Study, task_of: TaskOf, method: str, words: str, question: Question = "more") -> list[_Test]:
    tests = []
    for student in study.students:
        task = task_of(student)
        for size in study.sizes(task, (method,), student)[-1:]:
            where = f"{short(student)} at {size_text(size)}"
            found = _pair(study, student, (method, "gkd_sft"), size, task)
            tests += _tested(*found, f"{where}, {words}", question)
            if found[0] is None and task not in (*study.general, *study.held_out):  # an average that one of them lacks
                for one in (t for t in study.general if t not in study.left_out(student)):
                    found = _pair(study, student, (method, "gkd_sft"), size, one)
                    tests += _tested(*found, f"{where} on {task_label(one)}, {words}", question)
    return tests


def _pair(
    study: Study, student: str, methods: tuple[str, str], size: int | None, task: str
) -> tuple[Paired | None, Result | None]:
    result, other = (study.find(student, method, size, task) for method in methods)
    return study.compare(result, other), result


def _distilling_domain(study: Study) -> list[_Test]:
    return _domain_tests(study, "gkd_sft", "GKD against")


def _mixing(study: Study) -> list[_Test]:
    return _domain_tests(study, "mix", "Mix against")


def _two_stages(study: Study) -> list[_Test]:
    return _domain_tests(study, "two_stage", "two stages against Mix", "mix")


def _synthetic(study: Study) -> list[_Test]:
    """Two stages at the largest size against GKD without synthetic rows: figure 5's ends."""
    return _domain_tests(study, "two_stage", "two stages against GKD without synthetic rows", "gkd_sft")


def _domain_tests(study: Study, method: str, words: str, other: str = "") -> list[_Test]:
    """A method against another, or against the reference."""
    tests = []
    for task in study.domain:
        for student in study.students:
            if task in study.left_out(student):
                continue
            result, where = largest(study, student, method, task), f"{short(student)} on {task_label(task)}, {words}"
            paper = _paper_gain(study, result)
            if not other:
                tests += _against_reference(study, result, where, paper)
                continue
            against = (
                study.on_gold(student, other, task) if other == "gkd_sft" else largest(study, student, other, task)
            )
            less = _paper_gain(study, against)
            paper = None if paper is None or less is None else paper - less
            tests += _tested(study.compare(result, against), result, where, "more", paper)
    return tests


def _against_reference(study: Study, result: Result | None, where: str, paper: float | None) -> list[_Test]:
    reference = study.reference(result) if result is not None else None
    name = method_label(reference.arm, study) if reference is not None else ""
    return _tested(study.versus(result), result, f"{where} {name}", "more", paper)


def _tested(
    versus: Paired | None,
    result: Result | None,
    where: str,
    question: Question = "more",
    paper: float | None = None,
    seeds: int = 0,
) -> list[_Test]:
    return [_Test(where, versus, result, question, paper, seeds)] if versus is not None and result is not None else []


GENERAL: dict[str, Callable[[Study, TaskOf], list[_Test]]] = {
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
    "Synthetic data add to distilling": _synthetic,
}
