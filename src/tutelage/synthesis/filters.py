"""The filters of synthetic rows. A rejection has a reason, which is counted, and a detail for its reader.

A new row may do what the gold data does: if more than 1 % of the gold inputs begin with `Question:`, so may a new one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tutelage.common.errors import TutelageError
from tutelage.recipe.stages import FilterConfig
from tutelage.synthesis.likeness import Likeness
from tutelage.synthesis.near_duplicates import NearDuplicates
from tutelage.synthesis.prompts import Demonstration, repeats_instruction
from tutelage.synthesis.words import word_runs, words

_TOLERATED = 0.01  # what a larger share of the gold rows does is allowed

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
    """Whether a text passed, and if not, why."""

    reason: str | None = None  # None: it passed
    detail: str = ""
    nearest: float = 0.0  # estimated similarity to the most similar known text, if high


class Filters:
    """Checks rows in order: `check_input`, then `check_answer`.

    Inputs that passed are remembered, and later ones must differ from them.
    """

    def __init__(self, config: FilterConfig, gold: Sequence[Demonstration], evaluation: Iterable[str]) -> None:
        """`gold`: the rows to compare with. `evaluation`: all texts of the evaluation data, prompts and references.

        Raises TutelageError if `answer: choice` does not suit the gold rows.
        """
        self.config, self.skipped = config, set(config.skip)
        inputs, outputs = [row.input for row in gold], [row.output for row in gold]
        self.inputs, self.outputs = Likeness(inputs), Likeness(outputs)
        self._allowed = {
            "input": _habits(inputs, _input_preambles),
            "output": _habits(outputs, _output_preambles),
            "answer": _habits(inputs, _answer_labels),
        }
        self._wordless = sum(not words(output) for output in outputs) > _TOLERATED * len(gold)
        extracted = sum(_within(row.output, row.input) for row in gold)
        self._extractive = extracted > 2 * _TOLERATED * len(gold)
        self._bare_letters = all(len(output.strip()) == 1 for output in outputs)
        self._check_gold_choices(gold)
        self._near = NearDuplicates(config.near_duplicate)
        self._exact: dict[str, dict[str, str]] = {}  # text → source (gold or earlier) → id
        for row in gold:
            self._remember("gold", row.id, words(row.input))
        self._evaluation_runs: set[int] = set()
        self._evaluation_texts: set[str] = set()
        for text in evaluation:
            text_words = words(text)
            self._evaluation_runs.update(word_runs(text_words, config.contamination_words))
            self._evaluation_texts.add(" ".join(text_words))
        # Without runs that are common in the gold data, such as an instruction on the same line as the content.
        self._evaluation_runs -= _frequent(
            word_runs(words(text), config.contamination_words) for text in [*inputs, *outputs]
        )
        self._checks: list[tuple[str, Callable[[str, list[str]], FilterResult | None]]] = [
            ("preamble", lambda text, text_words: self._preamble("input", _input_preambles(text)) or _echo(text_words)),
            ("carries_answer", lambda text, _: self._answer_label(text)),
            ("format", lambda text, _: self._choices(text)),
            ("form", lambda text, _: _rejection("form", self.inputs.form_complaint(text))),
            ("script", lambda text, _: _rejection("script", self.inputs.script_complaint(text))),
            ("language", lambda text, _: _rejection("language", self.inputs.language_complaint(text))),
            ("contamination", lambda _, text_words: self._contamination(text_words)),
            ("duplicate", lambda _, text_words: self._duplicate(text_words)),
        ]

    def check_input(self, text: str, finished: bool, id: str) -> FilterResult:
        """Check a new input; one that passes is remembered as `id`. `finished`: not cut at the length limit."""
        text_words = words(text)
        if not text_words:
            return FilterResult("empty")
        if not finished:
            return FilterResult("cut", "the input reached the length limit")
        for name, check in self._checks:
            verdict = None if name in self.skipped else check(text, text_words)
            if verdict is not None:
                return verdict
        self.remember(text, id)
        return FilterResult(nearest=self._near.nearest_of_last)

    def remember(self, text: str, id: str) -> None:
        """Remember an input, from which later ones must differ."""
        self._remember("earlier", id, words(text))

    def check_answer(self, text: str, answer: str, finished: bool) -> FilterResult:
        """Check the answer to the input `text`, which passed. `finished`: not cut at the length limit."""
        if not answer.strip() or not (words(answer) or self._wordless):
            return FilterResult("empty", "the answer")
        if not finished:
            return FilterResult("cut", "the answer reached the length limit")
        checks = [
            ("preamble", lambda: self._preamble("output", _output_preambles(answer))),
            ("format", lambda: self._letter(text, answer)),
            ("carries_answer", lambda: self._carried(text, answer)),
            ("form", lambda: _rejection("form", self.outputs.form_complaint(answer), "the answer: ")),
            ("script", lambda: _rejection("script", self.outputs.script_complaint(answer), "the answer: ")),
            ("language", lambda: _rejection("language", self.outputs.language_complaint(answer), "the answer: ")),
            ("contamination", lambda: self._contamination(words(answer), whole=False)),
        ]
        found = (check() for name, check in checks if name not in self.skipped)
        return next((verdict for verdict in found if verdict is not None), FilterResult())

    # --- the checks --------------------------------------------------------------------------------------------------

    def _preamble(self, side: str, found: list[str]) -> FilterResult | None:
        found = [one for one in found if one not in self._allowed[side]]
        return FilterResult("preamble", f"begins with `{found[0]}`") if found else None

    def _answer_label(self, text: str) -> FilterResult | None:
        found = [one for one in _answer_labels(text) if one not in self._allowed["answer"]]
        return FilterResult("carries_answer", f"has `{found[0]}`") if found else None

    def _carried(self, text: str, answer: str) -> FilterResult | None:
        if self._extractive or not _within(answer, text):
            return None
        return FilterResult("carries_answer", "the input contains the answer, word for word")

    def _check_gold_choices(self, gold: Sequence[Demonstration]) -> None:
        """Refuse `answer: choice` if most gold rows do not have the form that it requires of new rows."""
        if self.config.answer != "choice" or "format" in self.skipped:
            return
        good = sum(not self._choices(row.input) and not self._letter(row.input, row.output) for row in gold)
        if good < 0.5 * len(gold):
            raise TutelageError(
                f"`filters.answer: choice` needs one line per choice (`A. …`) and a letter as answer, and of "
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

    def _contamination(self, text_words: list[str], whole: bool = True) -> FilterResult | None:
        length = self.config.contamination_words
        for place, run in enumerate(word_runs(text_words, length)):
            if run in self._evaluation_runs:
                return FilterResult(
                    "contamination", f"shares `{' '.join(text_words[place : place + length])}` with evaluation data"
                )
        if whole and " ".join(text_words) in self._evaluation_texts:
            return FilterResult("contamination", "equals an evaluation text")
        return None

    def _duplicate(self, text_words: list[str]) -> FilterResult | None:
        for source, id in self._exact.get(" ".join(text_words), {}).items():
            if f"duplicate_of_{source}" not in self.skipped:
                return FilterResult(f"duplicate_of_{source}", id, 1.0)
        sources = [s for s in ("gold", "earlier") if f"near_duplicate_of_{s}" not in self.skipped]
        near = self._near.find(text_words, sources)
        if near is None:
            return None
        source, id, similarity = near
        return FilterResult(f"near_duplicate_of_{source}", f"{similarity:.2f} like {id}", similarity)

    def _remember(self, source: str, id: str, text_words: list[str]) -> None:
        self._exact.setdefault(" ".join(text_words), {}).setdefault(source, id)
        self._near.add(source, id, text_words)


def _echo(text_words: Sequence[str]) -> FilterResult | None:
    return FilterResult("preamble", "repeats the instruction") if repeats_instruction(text_words) else None


def _rejection(reason: str, complaint: str | None, prefix: str = "") -> FilterResult | None:
    return None if complaint is None else FilterResult(reason, prefix + complaint)


def _input_preambles(text: str) -> list[str]:
    """The label, preamble or quotation marks at the start of a text, if any."""
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
    """The complaints that apply to more than 1 % of the gold texts."""
    counts = Counter(one for text in texts for one in set(complaints(text)))
    return {one for one, count in counts.items() if count > _TOLERATED * len(texts)}


def _frequent(runs_per_text: Iterable[list[int]]) -> set[int]:
    """The runs of words that occur in at least two texts and in more than 1 % of them."""
    distinct = [set(runs) for runs in runs_per_text]
    counts = Counter(run for runs in distinct for run in runs)
    return {run for run, count in counts.items() if count > max(1, _TOLERATED * len(distinct))}


def _named(letters: Sequence[str]) -> list[str]:
    """The choices among the labels that begin lines: A, B, … in order, or 1, 2, … if there are no such letters."""
    for names in ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "123456789"):
        found: list[str] = []
        for letter in letters:
            if letter == names[len(found) : len(found) + 1]:
                found.append(letter)
        if len(found) >= 2:
            return found
    return []


def _within(answer: str, text: str) -> bool:
    """Whether the text contains all words of an answer of at least six words, in a row."""
    answer_words = words(answer)
    return len(answer_words) >= 6 and f" {' '.join(answer_words)} " in f" {' '.join(words(text))} "
