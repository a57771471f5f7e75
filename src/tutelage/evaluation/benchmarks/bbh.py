"""BIG-Bench Hard (Suzgun et al., 2022): 27 tasks, 6,511 examples, three solved examples with chains of thought.

Source: github suzgunmirac/BIG-Bench-Hard. Prompts are lm-eval's `bbh_cot_fewshot`, whose texts equal the official
cot-prompts. `accuracy` finds the answer as a human reader does (`find_answer.py`). `accuracy_official` is the
repository's reading: what follows the last "the answer is", without the full stop, must equal the target.
`accuracy_lm_eval` is lm-eval's own score: it takes the first "the answer is", in lower case only, drops one character
after it, and compares the rest letter by letter; it also cuts replies at the first blank line and at every "Q".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Prompt, Reply, Scored
from tutelage.evaluation.benchmarks.data import Hub, checked, find, hub_rows
from tutelage.evaluation.benchmarks.lm_eval import HarnessTask, cut_at
from tutelage.evaluation.clusters import Metric
from tutelage.evaluation.readers.cues import STATED, answer_phrase
from tutelage.evaluation.readers.find_answer import (
    NUMBER_WORDS,
    Found,
    find_number,
    find_passage,
    find_phrase,
    find_word,
    number_of,
    plain,
    trim,
)
from tutelage.evaluation.readers.find_letter import find_letter
from tutelage.evaluation.readers.find_refusal import left_undecided, refuses, takes_back
from tutelage.evaluation.readers.next_question import find_before_next
from tutelage.evaluation.readers.second_answer import claims_another
from tutelage.evaluation.readers.taken_back import LEADING_NO, after_change

TASKS = [
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
]
_WORDS = (("True", "False"), ("Yes", "No"), ("valid", "invalid"))
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*)$", re.M)
_BRACKETS = re.compile(r"[\[\](){}<>\s]+")
_BOXED_BRACKETS = re.compile(
    r"\\boxed\{\s*(?:\\(?:text|texttt|mathrm)\{([\[\](){}<>\s\\]+)\}|([\[\](){}<>\s\\]+))\}(?![\[\](){}<>])"
)  # braces inside need not be balanced
_TWO_BOXES = re.compile(rf"{_BOXED_BRACKETS.pattern}[ $]*(?:,|;|/|\bor\b|\band\b)[ $]*\\boxed")
_NOT_VALID = re.compile(  # "is not valid", "cannot be deductively valid", "isn't invalid"
    r"\b(?:is\s+not|isn['’]t|not|can(?:not|['’]t)\s+be|fails?\s+to\s+be)\s+((?:\w+ly\s+)?)(in)?valid\b", re.I
)
_ENDING = re.compile(r"(?:\b(?:is|are)|:|=)\s*[\"'“‘]?\s*((?:[\[\](){}<>]\s*)+)[\"'”’.]*\s*\Z")  # "The rest is: ] )"
_BULLET = re.compile(r"(?:[-*•]|\d+[.)])\s+")
_ITEM = re.compile(rf"(?:{_BULLET.pattern})?[^\w\s]?[\w'’-]+[^\w\s]{{0,2}}")  # a line of a list of words
_BESIDE = (  # between two answers in brackets: ", but it could also be"
    r"(?:\b(?:or|and|but|alternatively|also|it|could|might|may|be|possibly|maybe|perhaps)\b[\s,]*)*"
)
_SENTENCE = re.compile(r"[.!?](?=\s)")
_READ_AT_MOST = 1000  # characters of a list
_CUTS = ("\nQ:", "</s>")  # where the reply of a base model that continues with a next question is cut


@dataclass(frozen=True)
class BBH(Benchmark):
    files: ClassVar[tuple[str, ...]] = tuple(f"bbh/bbh/{task}.json" for task in TASKS)
    hub: ClassVar[str] = "SaylorTwift/bbh"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(fixed_groups=True, equal_groups=True),
        "accuracy_weighted": Metric(source="accuracy", fixed_groups=True),
        "accuracy_official": Metric(fixed_groups=True, equal_groups=True),
        "accuracy_lm_eval": Metric(fixed_groups=True, equal_groups=True),
    }
    headline: ClassVar[str] = "accuracy"
    shots: ClassVar[int] = 3
    stop: ClassVar[tuple[str, ...]] = _CUTS

    def items(self, data_dir: Path | None, seed: int) -> list[Item]:
        items = []
        for task in TASKS:
            if data_dir is None:
                rows, where = hub_rows(Hub(self.hub, "test", task)), f"{self.hub}:{task}"
            else:
                path = find(data_dir, f"bbh/bbh/{task}.json")
                rows, where = _examples(path), str(path)
            for number, row in enumerate(rows):
                checked(row, ("input", "target"), f"{where}, example {number}")
                items.append(_item(task, number, row))
        return items

    def prompt(self, item: Item, chat: bool, shots: int) -> Prompt:
        return self._task(item).prompt(item.row, chat, shots)

    def score_reply(self, item: Item, reply: Reply) -> Scored:
        target = item.targets[0]
        read = partial(find_answer, question=item.row["input"], target=target)
        found = find_before_next(read, reply.text, reply.finished, self.stop)
        right = found.answer is not None and _same(found.answer, target)
        by_lm_eval = self._task(item).scores(item.row, cut_at(reply.text, ("</s>", "\n\n", "Q")))["get-answer"]
        scores: dict[str, float | None] = {
            "accuracy": float(right),
            "accuracy_official": float(answer_phrase(cut_at(reply.text, _CUTS)) == target),
            "accuracy_lm_eval": by_lm_eval,
        }
        return Scored(scores, found.answer, found.how)

    def _task(self, item: Item) -> HarnessTask:
        if item.group not in self._cache:
            self._cache[item.group] = HarnessTask(f"bbh/cot_fewshot/{item.group}.yaml", [item.row])
        return self._cache[item.group]


def find_answer(reply: str, question: str, target: str) -> Found:
    """The answer in a reply, read as what the target is: a letter, a word, a number, brackets, or a list of words."""
    if re.fullmatch(r"\([A-Z]\)", target):
        options = dict(_OPTION.findall(question))
        letters = "".join(options) or "ABCDEFGHIJKLMNOPQR"
        found = find_letter(reply, letters, list(options.values()))
        return replace(found, answer=f"({found.answer})") if found.answer else found
    words = _words_of(target)
    if words:
        reply = _NOT_VALID.sub(_opposite, plain(reply)) if "invalid" in words else reply
        return _single(find_word(reply, words), reply, "|".join(words))
    if re.fullmatch(r"-?\d+", target):
        return _single(find_number(reply), reply, rf"[-−]?\d+|{'|'.join(NUMBER_WORDS)}", number_of)
    brackets = _BRACKETS.fullmatch(target) is not None
    if _withdrawn(plain(reply)):
        return Found(None, "no answer is chosen")
    return _find_brackets(reply) if brackets else _find_list(reply, target)


def _single(found: Found, reply: str, answers: str, value: Callable[[str], str | None] = str.lower) -> Found:
    """`found`, unless the reply claims another of the `answers` (a pattern) after its last statement. `value`: of what
    such a pattern matches."""
    text = plain(reply)
    start = max((match.end() for match in STATED.finditer(text)), default=0)
    claimed = found.answer and claims_another(text[start:][:600], answers, found.answer, value)
    return Found(None, "several answers") if claimed else found


def _withdrawn(text: str) -> bool:
    """Whether a reply ends by choosing no answer, after whatever it stated: "Actually, neither."."""
    changed = LEADING_NO.sub("", after_change(text) or "")
    back = bool(changed) and not STATED.search(changed) and left_undecided(changed)
    return back or takes_back(text) > max((match.end() for match in STATED.finditer(text)), default=-1)


def _opposite(found: re.Match[str]) -> str:
    return f"is {found[1]}{'valid' if found[2] else 'invalid'}"


def _find_list(reply: str, target: str) -> Found:
    """The list stated as the answer, else a list of exactly the target's words, in any order."""
    found = find_passage(reply)
    if found.answer is not None:
        if refuses(found.answer):
            return Found(None, "no answer is chosen")
        listed = _listed(found.answer)
        rest = found.answer.partition(listed)[2]
        if re.match(r"[\s.,;!?\"'”’]*(?:or|alternatively|maybe|perhaps)\b", rest, re.I):
            return Found(None, "several answers")
        return replace(found, answer=listed)
    text, words = plain(reply).strip(), sorted(_list(target))
    colons = [colon.end() for colon in re.finditer(":", text)][-50:]  # the last ones, so that any reply is read fast
    lines = [_list(trim(line)) for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and all(sorted(line) == words for line in lines) and any(line != lines[0] for line in lines):
        return Found(None, "several answers")
    for start in (text.rfind("\n") + 1, *reversed(colons), 0):
        phrase = _listed(text[start:])
        if sorted(_list(phrase)) == words:
            return Found(phrase, "the last list of these words", stated=False)
    return found


def _listed(text: str) -> str:
    """The words that a text begins with: one per line, or those of the first line up to a full stop."""
    lines = text[:_READ_AT_MOST].strip().split("\n")
    items = list(takewhile(_ITEM.fullmatch, map(str.strip, lines)))
    return (
        " ".join(trim(_BULLET.sub("", item)) for item in items)
        if len(items) > 1
        else trim(_SENTENCE.split(lines[0])[0])
    )


def _find_brackets(reply: str) -> Found:
    """Brackets stated as the answer, boxed, or the whole last line; with spaces between them."""
    boxes = [box[0] or box[1] for box in _BOXED_BRACKETS.findall(reply)]
    if _TWO_BOXES.search(reply):
        return Found(None, "several answers")
    stated = Found(boxes[-1].replace("\\", ""), "stated as the answer") if boxes else find_phrase(reply)
    lines = ["".join(trim(line).split()) for line in plain(reply).split("\n") if line.strip()]
    if len(set(lines)) > 1 and all(map(_BRACKETS.fullmatch, lines)):
        return Found(None, "several answers")
    if stated.answer is None and (ending := _ENDING.search(plain(reply))):
        stated = Found(ending[1], "the brackets at the end", stated=False)
    if stated.answer is None and _BRACKETS.fullmatch(line := trim(plain(reply).strip().rpartition("\n")[2])):
        stated = Found(line, "the last line", stated=False)
    text = trim(stated.answer or "")
    brackets = _BRACKETS.match(text)
    if brackets and re.match(
        rf"[\s\"'`?.]*(?:[/|?]|[,;]?\s*{_BESIDE})[\s\"'`]*[\[\](){{}}<>]", text[brackets.end() :], re.I
    ):
        return Found(None, "several answers")
    if not brackets:
        return Found(None, "no brackets stated")
    return replace(stated, answer=" ".join("".join(brackets[0].split())))


def _same(answer: str, target: str) -> bool:
    if re.fullmatch(r"-?\d+", target):
        return answer == str(int(target))
    if _BRACKETS.fullmatch(target):
        return answer.split() == list("".join(target.split()))
    return answer == target or _list(answer) == _list(target)


def _list(text: str) -> list[str]:
    """Words in lower case without quotes and brackets, split at spaces, commas and line ends."""
    words = re.sub(r"[,;\n\[\]\"“”]|(?<!\w)['‘’]|['’](?!\w)", " ", text.lower())
    return re.sub(r" and (?=\S+\s*$)", " ", words).split()


def _words_of(target: str) -> tuple[str, ...]:
    """The answer words of the target's task, in the target's case; empty where the target is none of them."""
    for words in _WORDS:
        if target.lower() in [word.lower() for word in words]:
            return tuple(word.lower() for word in words) if target.islower() else words
    return ()


def _item(task: str, number: int, row: Mapping[str, Any]) -> Item:
    target = str(row["target"])
    options = len(_OPTION.findall(row["input"]))
    chance = 1 / options if re.fullmatch(r"\([A-Z]\)", target) and options else 0.5 if _words_of(target) else 0.0
    return Item(f"{task}/{number}", row["input"], (target,), {"input": row["input"], "target": target}, task, chance)


def _examples(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["examples"]
    except (ValueError, KeyError, TypeError) as error:
        raise TutelageError(f"{path}: has no list `examples` ({error}); take the file from its source again") from None
    return rows
