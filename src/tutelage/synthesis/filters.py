"""What a synthetic row must pass. Every rejection has a reason, which is counted, and a detail for its reader.

What the gold data does itself is never held against a row: if more than one in a hundred gold inputs begins with
`Question:`, so may a new one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import FilterConfig
from tutelage.synthesis.likeness import Likeness
from tutelage.synthesis.near_duplicates import NearDuplicates
from tutelage.synthesis.prompts import Demonstration, repeats_instruction
from tutelage.synthesis.words import runs, words

_TOLERATED = 0.01  # what more gold rows than this do is allowed

_PREAMBLE = re.compile(
    r"\W*(here(?:'s|’s| is| are| you go| it is| they are)\b|below (?:is|are)\b|"
    r"(?:sure(?: thing)?|certainly|absolutely|of course|okay)\s*[,!.:]|as an ai\b|"
    r"i(?:'m|’m| am) sorry\b|i can(?:'t|’t|not)\b)",
    re.IGNORECASE,
)
_COLON = r"\s*#?\s*\d*\s*[*_]*\s*[:：]"  # with a number, and the end of Markdown's emphasis
_LABEL = re.compile(
    r"\W*((?:(?:brand[- ])?new |next |generated )*(?:input(?: message)?(?: content)?|message(?: content)?|example|"
    r"demonstration|prompt|question|user|dialogue|conversation|text|sentence|source|task)(?=" + _COLON + r")|"
    r"in(?=\s*[*_]*\s*[:：]))",  # `In 2020: …` is no label
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"^\W*((?:the )?(?:correct |right |final )?(?:out|output|ans|answer(?: key)?|response|summary|translation|label|"
    r"solution)(?=" + _COLON + r")|the (?:correct |right |final )?(?:answer|summary|translation)(?= is\b))|"
    r"\s((?-i:Out))(?=:)",  # eq. 4's next field, on the same line
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED = re.compile(r"(?:```.*```|\"[^\"]*\"|“[^”]*”|'[^'\n]*'|«[^»]*»)", re.DOTALL)
_CHOICE = re.compile(r"^[ \t]*\(?([A-Z]|[1-9])[.):][ \t]*\S", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z]|[1-9])(?:[.):].*|\))?", re.DOTALL)


@dataclass(frozen=True)
class FilterResult:
    """`reason` None: passed. `nearest` is the estimated similarity to the most similar text known, where it is high."""

    reason: str | None = None
    detail: str = ""
    nearest: float = 0.0


class Filters:
    """`check_input` then `check_answer`, row by row: inputs that passed are remembered, later ones must differ."""

    def __init__(self, config: FilterConfig, gold: Sequence[Demonstration], evaluation: Iterable[str]) -> None:
        """`evaluation`: every text of the evaluation data, prompts and references."""
        self.config, self.skipped = config, set(config.skip)
        inputs, outputs = [row.input for row in gold], [row.output for row in gold]
        self.inputs, self.outputs = Likeness(inputs), Likeness(outputs)
        self._allowed = {
            "input": _habits(inputs, _input_preambles),
            "output": _habits(outputs, _output_preambles),
            "answer": _habits(inputs, _answer_labels),
        }
        self._wordless = sum(not words(output) for output in outputs) > _TOLERATED * len(gold)
        carried = sum(_within(row.output, row.input) for row in gold)
        self._extractive = carried > 2 * _TOLERATED * len(gold)
        self._bare_letters = all(len(output.strip()) == 1 for output in outputs)
        self._check_gold_choices(gold)
        self._near = NearDuplicates(config.near_duplicate)
        self._exact: dict[str, dict[str, str]] = {}  # by text: where it is known from, and as what
        for row in gold:
            self._remember("gold", row.id, words(row.input))
        self._runs: set[int] = set()
        self._whole: set[str] = set()
        for text in evaluation:
            split = words(text)
            self._runs.update(runs(split, config.contamination_words))
            self._whole.add(" ".join(split))
        # Not the words of an instruction, say, that gold and evaluation data begin with on the line of their content.
        self._runs -= _frequent(runs(words(text), config.contamination_words) for text in [*inputs, *outputs])
        self._checks: list[tuple[str, Callable[[str, list[str]], FilterResult | None]]] = [
            ("preamble", lambda text, split: self._preamble("input", _input_preambles(text)) or _echo(split)),
            ("carries_answer", lambda text, _: self._answer_label(text)),
            ("format", lambda text, _: self._choices(text)),
            ("form", lambda text, _: _verdict("form", self.inputs.form_complaint(text))),
            ("script", lambda text, _: _verdict("script", self.inputs.script_complaint(text))),
            ("language", lambda text, _: _verdict("language", self.inputs.language_complaint(text))),
            ("contamination", lambda _, split: self._contamination(split)),
            ("duplicate", lambda _, split: self._duplicate(split)),
        ]

    def check_input(self, text: str, finished: bool, id: str) -> FilterResult:
        """Whether a new input is worth an answer. One that passes is remembered as `id`."""
        split = words(text)
        if not split:
            return FilterResult("empty")
        if not finished:
            return FilterResult("cut", "the input reached the length limit")
        for name, check in self._checks:
            verdict = None if name in self.skipped else check(text, split)
            if verdict is not None:
                return verdict
        self.remember(text, id)
        return FilterResult(nearest=self._near.nearest_of_last)

    def remember(self, text: str, id: str) -> None:
        """Later inputs must differ from this one."""
        self._remember("earlier", id, words(text))

    def check_answer(self, text: str, answer: str, finished: bool) -> FilterResult:
        """Whether the answer to an input that passed makes a row."""
        if not answer.strip() or not (words(answer) or self._wordless):
            return FilterResult("empty", "the answer")
        if not finished:
            return FilterResult("cut", "the answer reached the length limit")
        checks = [
            ("preamble", lambda: self._preamble("output", _output_preambles(answer))),
            ("format", lambda: self._letter(text, answer)),
            ("carries_answer", lambda: self._carried(text, answer)),
            ("form", lambda: _verdict("form", self.outputs.form_complaint(answer), "the answer: ")),
            ("script", lambda: _verdict("script", self.outputs.script_complaint(answer), "the answer: ")),
            ("language", lambda: _verdict("language", self.outputs.language_complaint(answer), "the answer: ")),
            ("contamination", lambda: self._contamination(words(answer), whole=False)),
        ]
        found = (check() for name, check in checks if name not in self.skipped)
        return next((verdict for verdict in found if verdict is not None), FilterResult())

    # --- one by one --------------------------------------------------------------------------------------------------

    def _preamble(self, side: str, found: list[str]) -> FilterResult | None:
        found = [one for one in found if one not in self._allowed[side]]
        return FilterResult("preamble", f"begins with `{found[0]}`") if found else None

    def _answer_label(self, text: str) -> FilterResult | None:
        found = [one for one in _answer_labels(text) if one not in self._allowed["answer"]]
        return FilterResult("carries_answer", f"has `{found[0]}`") if found else None

    def _carried(self, text: str, answer: str) -> FilterResult | None:
        if self._extractive or not _within(answer, text):
            return None
        return FilterResult("carries_answer", "the answer stands in the input, word for word")

    def _check_gold_choices(self, gold: Sequence[Demonstration]) -> None:
        """`answer: choice` judges new rows by a form that the gold rows must have themselves."""
        if self.config.answer != "choice" or "format" in self.skipped:
            return
        good = sum(not self._choices(row.input) and not self._letter(row.input, row.output) for row in gold)
        if good < 0.5 * len(gold):
            raise TutelageError(
                f"`filters.answer: choice` wants a line for each choice (`A. …`) and a letter as answer, and of "
                f"{len(gold)} gold rows {good} have them: write gold rows so, or leave `answer` out"
            )

    def _choices(self, text: str) -> FilterResult | None:
        if self.config.answer != "choice":
            return None
        letters = _CHOICE.findall(text)
        named = _named(letters)
        if len(named) >= 2 and all(letters.count(letter) == 1 for letter in named):
            return None
        return FilterResult(
            "format", f"lists the choices {', '.join(letters) or 'none'}: A, B and so on are needed, each once"
        )

    def _letter(self, text: str, answer: str) -> FilterResult | None:
        if self.config.answer != "choice":
            return None
        found, named = _LETTER.fullmatch(answer.strip()), _named(_CHOICE.findall(text))
        if found is None or (self._bare_letters and len(answer.strip()) > 1):
            return FilterResult("format", "the answer is not a letter")
        return None if found[1] in named else FilterResult("format", f"{found[1]} is not among {', '.join(named)}")

    def _contamination(self, split: list[str], whole: bool = True) -> FilterResult | None:
        length = self.config.contamination_words
        for place, run in enumerate(runs(split, length)):
            if run in self._runs:
                return FilterResult(
                    "contamination", f"shares `{' '.join(split[place : place + length])}` with evaluation data"
                )
        if whole and " ".join(split) in self._whole:
            return FilterResult("contamination", "is an evaluation text as a whole")
        return None

    def _duplicate(self, split: list[str]) -> FilterResult | None:
        for source, id in self._exact.get(" ".join(split), {}).items():
            if f"duplicate_of_{source}" not in self.skipped:
                return FilterResult(f"duplicate_of_{source}", id, 1.0)
        sources = [s for s in ("gold", "earlier") if f"near_duplicate_of_{s}" not in self.skipped]
        near = self._near.find(split, sources)
        if near is None:
            return None
        source, id, similarity = near
        return FilterResult(f"near_duplicate_of_{source}", f"{similarity:.2f} like {id}", similarity)

    def _remember(self, source: str, id: str, split: list[str]) -> None:
        self._exact.setdefault(" ".join(split), {}).setdefault(source, id)
        self._near.add(source, id, split)


def _echo(split: Sequence[str]) -> FilterResult | None:
    return FilterResult("preamble", "repeats the instruction") if repeats_instruction(split) else None


def _verdict(reason: str, complaint: str | None, prefix: str = "") -> FilterResult | None:
    return None if complaint is None else FilterResult(reason, prefix + complaint)


def _input_preambles(text: str) -> list[str]:
    """The label, preamble or quotation marks that a text begins with."""
    stripped = text.strip()
    for pattern in (_PREAMBLE, _LABEL):
        found = pattern.match(stripped)
        if found:
            return [_plain(found[1])]
    return ["quotation marks"] if _QUOTED.fullmatch(stripped) else []


def _output_preambles(text: str) -> list[str]:
    found = _ANSWER.match(text.strip())
    return _input_preambles(text) + ([_plain(found[1] or found[2])] if found else [])


def _answer_labels(text: str) -> list[str]:
    return [_plain(found[1] or found[2]) for found in _ANSWER.finditer(text)]


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("’", "'").rstrip(" ,!.:").split())


def _habits(texts: Sequence[str], complaints: Callable[[str], list[str]]) -> set[str]:
    """Complaints that apply to the gold data itself."""
    counts = Counter(one for text in texts for one in set(complaints(text)))
    return {one for one, count in counts.items() if count > _TOLERATED * len(texts)}


def _frequent(texts_runs: Iterable[list[int]]) -> set[int]:
    """Runs of words that stand in two of the texts and in more than one of a hundred."""
    texts = [set(one) for one in texts_runs]
    counts = Counter(run for one in texts for run in one)
    return {run for run, count in counts.items() if count > max(1, _TOLERATED * len(texts))}


def _named(letters: Sequence[str]) -> list[str]:
    """The choices among what begins lines: A, B, … in their order; or 1, 2, … where there are no such letters."""
    for names in ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "123456789"):
        found: list[str] = []
        for letter in letters:
            if letter == names[len(found) : len(found) + 1]:
                found.append(letter)
        if len(found) >= 2:
            return found
    return []


def _within(answer: str, text: str) -> bool:
    """Whether an answer of at least six words stands in the text as it is."""
    split = words(answer)
    return len(split) >= 6 and f" {' '.join(split)} " in f" {' '.join(words(text))} "
