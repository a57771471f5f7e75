"""The metrics of a recipe's tasks: each scores one response against its references, 0..1. `SCORERS` lists them.

*Unscored* (value None) is not *wrong* (value 0): an example without usable references says nothing about the model,
while an empty response is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tutelage.evaluation.readers.cues import answer_phrase, without_adverbs
from tutelage.evaluation.readers.statements import what_holds


@dataclass(frozen=True)
class Score:
    """The score of one response by one metric."""

    value: float | None  # 0..1; None: unscored
    answer: str | None  # what was compared with the references
    reason: str  # how the value came about


NO_REFERENCES = "no references"
# ROUGE's tokens are runs of a-z and 0-9: it does not see other scripts, so 0 would be wrong.
NO_LATIN = "no reference has a Latin letter or digit, the only text that ROUGE sees"
# What to do if a metric leaves examples unscored, by its reason.
ADVICE = {
    NO_REFERENCES: "give the rows of the data section `references`, or an assistant turn",
    NO_LATIN: "use `chrf`, which is for every script",
}

Scorer = Callable[[str, Sequence[str]], Score]


def rouge_l(response: str, references: Sequence[str]) -> Score:
    """ROUGE-L F-measure with Porter stemming (Lin, 2004), mean over the references."""
    return _rouge_l(response, references, "mean")


def rouge_l_best(response: str, references: Sequence[str]) -> Score:
    """ROUGE-L F-measure with Porter stemming, best over the references."""
    return _rouge_l(response, references, "best")


def exact_match(response: str, references: Sequence[str]) -> Score:
    """1 if the response equals a reference, else 0. Whitespace is normalised; case counts."""
    early = _without_comparing(response, references)
    if early is not None:
        return early
    answer = _collapse(response)
    for number, reference in enumerate(references, 1):
        if answer == _collapse(reference):
            return Score(1.0, answer, f"equals reference {number} of {len(references)}")
    return Score(0.0, answer, f"equals none of {_count(len(references))}")


def final_answer(response: str, references: Sequence[str]) -> Score:
    """1 if what follows the last "the answer is" equals a reference, else 0. Whitespace is normalised; case counts.

    Answers that the response doubts, asks for, supposes or reports of others are not stated, nor is one of two that it
    states side by side. "actually" and the like before an answer count only where a reference has them."""
    early = _without_comparing(response, references)
    if early is not None:
        return early
    holds = what_holds(response)
    answer = answer_phrase(holds, any_case=True)
    if answer is None:
        return Score(0.0, None, "no “the answer is”")
    known = set(map(_collapse, references))
    bare = answer_phrase(without_adverbs(holds), any_case=True) or answer  # "the answer is actually 7"
    answer = bare if _collapse(bare) in known else answer
    right = _collapse(answer) in known
    return Score(float(right), answer, f"equals {'one' if right else 'none'} of {_count(len(references))}")


def chrf(response: str, references: Sequence[str]) -> Score:
    """Sentence chrF2 (Popović, 2015) by sacrebleu, best over the references; for every script."""
    early = _without_comparing(response, references)
    if early is not None:
        return early
    from sacrebleu.metrics.chrf import CHRF

    value = CHRF().sentence_score(response.strip(), list(references)).score / 100
    return Score(value, response.strip(), f"chrF2 {100 * value:.1f}")


SCORERS: Mapping[str, Scorer] = {
    "rouge_l": rouge_l,
    "rouge_l_best": rouge_l_best,
    "exact_match": exact_match,
    "final_answer": final_answer,
    "chrf": chrf,
}


def _rouge_l(response: str, references: Sequence[str], over: str) -> Score:
    scorer, answer = _rouge(), response.strip()
    usable = [text for text in references if scorer._tokenizer.tokenize(text)]
    if references and not usable:  # whatever the response is: an empty one must not be the only one with a score
        return Score(None, answer or None, NO_LATIN)
    early = _without_comparing(response, references)
    if early is not None:
        return early
    values = [float(scorer.score(text, answer)["rougeL"].fmeasure) for text in usable]
    value = max(values) if over == "best" else sum(values) / len(values)
    left_out = f", {len(references) - len(usable)} without Latin text left out" if len(usable) < len(references) else ""
    listed = ", ".join(f"{one:.3f}" for one in values)
    return Score(value, answer, f"F {over} of {_count(len(usable))}: {listed}{left_out}")


def _without_comparing(response: str, references: Sequence[str]) -> Score | None:
    """The score where there is nothing to compare: no references, or no response."""
    if not references:
        return Score(None, response.strip() or None, NO_REFERENCES)
    if not response.strip():
        return Score(0.0, None, "empty response")
    return None


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: only when something is scored

    return RougeScorer(["rougeL"], use_stemmer=True)


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _count(references: int) -> str:
    return f"{references} reference{'' if references == 1 else 's'}"


def lower_is_better(metric: str) -> bool:
    """Whether a metric or task, by the words of its name, is a loss or a perplexity: `forward_kl`, not `checklist`."""
    return any(has_word(metric, word) for word in ("loss", "kl", "perplexity", "nll"))


def has_word(name: str, word: str) -> bool:
    """Whether a name has the word, in any case: `kl` is one of "held_out: kl", and none of "weekly: loss"."""
    return word in re.split("[^a-z]+", name.lower())
