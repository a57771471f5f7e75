"""What a synthetic row must pass. Every rejection has a reason, which is counted, and a detail for its reader.

What the gold data does itself is never held against a row: if more than one in a hundred gold inputs begins with
`Question:`, so may a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from tutelage.config import FilterConfig
from tutelage.synthetic_text import Demonstration, Likeness, repeats_instruction, runs, shingles, words

PERMUTATIONS = 128  # of a MinHash: the estimate of a Jaccard similarity is good to about 0.04
_TOLERATED = 0.01  # what more gold rows than this do is allowed

_PREAMBLE = re.compile(
    r"\W*(here(?:'s|’s| is| are)\b|sure\s*[,!.:]|certainly\s*[,!.:]|of course\s*[,!.:]|okay\s*[,!.:]|as an ai\b|"
    r"i(?:'m|’m| am) sorry\b|i can(?:'t|’t|not)\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\W*((?:new |next )?(?:in|input|input message|message|example|demonstration|prompt|question|user|dialogue|"
    r"conversation|text|sentence|source|task))\s*\d*\s*[:：]",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"^\W*((?:correct |final )?(?:out|output|answer|response|summary|translation|label|solution))\s*\d*\s*[:：]",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED = re.compile(r"(?:```.*```|\"[^\"]*\"|“[^”]*”|'[^'\n]*'|«[^»]*»)", re.DOTALL)
_CHOICE = re.compile(r"^[ \t]*\(?([A-Z]|[1-9])[.):][ \t]*\S", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z]|[1-9])(?:[.):].*|\))?", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """`reason` None: passed. `nearest` is the estimated similarity to the most similar text known, where it is high."""

    reason: str | None = None
    detail: str = ""
    nearest: float = 0.0


class Filters:
    """`check_input` then `check_answer`, row by row: inputs that passed are remembered, later ones must differ."""

    def __init__(self, config: FilterConfig, gold: Seq[Demonstration], evaluation: Iterable[str]) -> None:
        """`evaluation`: every text of the evaluation data, prompts and references."""
        self.config, self.skipped = config, set(config.skip)
        inputs, outputs = [row.input for row in gold], [row.output for row in gold]
        self.inputs, self.outputs = Likeness(inputs), Likeness(outputs)
        self._allowed = {
            "input": _habits(inputs, _complaint_of_preamble),
            "output": _habits(outputs, _complaint_of_preamble),
            "answer": _habits(inputs, _answer_label),
        }
        carried = sum(_within(row.output, row.input) for row in gold)
        self._extractive = carried > 2 * _TOLERATED * len(gold)
        self._bare_letters = all(len(output.strip()) == 1 for output in outputs)
        self._near = _NearDuplicates(config.near_duplicate)
        self._exact: dict[str, str] = {}
        for row in gold:
            self._remember("gold", row.id, words(row.input))
        self._runs: set[int] = set()
        self._whole: set[str] = set()
        for text in evaluation:
            split = words(text)
            self._runs.update(runs(split, config.contamination_words))
            self._whole.add(" ".join(split))
        self._checks: list[tuple[str, Callable[[str, list[str]], Verdict | None]]] = [
            ("preamble", lambda text, split: self._preamble(text, "input") or _echo(split)),
            ("carries_answer", lambda text, _: self._answer_label(text)),
            ("format", lambda text, _: self._choices(text)),
            ("form", lambda text, _: _verdict("form", self.inputs.form_complaint(text))),
            ("script", lambda text, _: _verdict("script", self.inputs.script_complaint(text))),
            ("language", lambda text, _: _verdict("language", self.inputs.language_complaint(text))),
            ("contamination", lambda _, split: self._contamination(split)),
            ("duplicate", lambda _, split: self._duplicate(split)),
        ]

    def check_input(self, text: str, finished: bool, id: str) -> Verdict:
        """Whether a new input is worth an answer. One that passes is remembered as `id`."""
        split = words(text)
        if not split:
            return Verdict("empty")
        if not finished:
            return Verdict("cut", "the input reached the length limit")
        for name, check in self._checks:
            verdict = None if name in self.skipped else check(text, split)
            if verdict is not None:
                return verdict
        self.remember(text, id)
        return Verdict(nearest=self._near.nearest_of_last)

    def remember(self, text: str, id: str) -> None:
        """Later inputs must differ from this one."""
        self._remember("earlier", id, words(text))

    def check_answer(self, text: str, answer: str, finished: bool) -> Verdict:
        """Whether the answer to an input that passed makes a row."""
        if not answer.strip():
            return Verdict("empty", "the answer")
        if not finished:
            return Verdict("cut", "the answer reached the length limit")
        checks = [
            ("preamble", lambda: self._preamble(answer, "output")),
            ("format", lambda: self._letter(text, answer)),
            ("carries_answer", lambda: self._carried(text, answer)),
            ("form", lambda: _verdict("form", self.outputs.form_complaint(answer), "the answer: ")),
            ("script", lambda: _verdict("script", self.outputs.script_complaint(answer), "the answer: ")),
            ("language", lambda: _verdict("language", self.outputs.language_complaint(answer), "the answer: ")),
            ("contamination", lambda: self._contamination(words(answer), whole=False)),
        ]
        found = (check() for name, check in checks if name not in self.skipped)
        return next((verdict for verdict in found if verdict is not None), Verdict())

    # --- one by one --------------------------------------------------------------------------------------------------

    def _preamble(self, text: str, side: str) -> Verdict | None:
        found = _complaint_of_preamble(text)
        return None if found is None or found in self._allowed[side] else Verdict("preamble", f"begins with `{found}`")

    def _answer_label(self, text: str) -> Verdict | None:
        found = _answer_label(text)
        allowed = found is None or found in self._allowed["answer"]
        return None if allowed else Verdict("carries_answer", f"has a line `{found}:`")

    def _carried(self, text: str, answer: str) -> Verdict | None:
        if self._extractive or not _within(answer, text):
            return None
        return Verdict("carries_answer", "the answer stands in the input, word for word")

    def _choices(self, text: str) -> Verdict | None:
        if self.config.answer != "choice":
            return None
        letters = _CHOICE.findall(text)
        if len(letters) >= 2 and len(set(letters)) == len(letters):
            return None
        return Verdict(
            "format", f"lists the choices {', '.join(letters) or 'none'}: at least two are needed, each once"
        )

    def _letter(self, text: str, answer: str) -> Verdict | None:
        if self.config.answer != "choice":
            return None
        found, letters = _LETTER.fullmatch(answer.strip()), _CHOICE.findall(text)
        if found is None or (self._bare_letters and len(answer.strip()) > 1):
            return Verdict("format", "the answer is not a letter")
        return None if found[1] in letters else Verdict("format", f"{found[1]} is not among {', '.join(letters)}")

    def _contamination(self, split: list[str], whole: bool = True) -> Verdict | None:
        length = self.config.contamination_words
        for place, run in enumerate(runs(split, length)):
            if run in self._runs:
                return Verdict(
                    "contamination", f"shares `{' '.join(split[place : place + length])}` with evaluation data"
                )
        if whole and " ".join(split) in self._whole:
            return Verdict("contamination", "is an evaluation text as a whole")
        return None

    def _duplicate(self, split: list[str]) -> Verdict | None:
        known = self._exact.get(" ".join(split))
        if known is not None and f"duplicate_of_{known.partition(':')[0]}" not in self.skipped:
            source, _, id = known.partition(":")
            return Verdict(f"duplicate_of_{source}", id, 1.0)
        sources = [s for s in ("gold", "earlier") if f"near_duplicate_of_{s}" not in self.skipped]
        near = self._near.find(split, sources)
        if near is None:
            return None
        source, id, similarity = near
        return Verdict(f"near_duplicate_of_{source}", f"{similarity:.2f} like {id}", similarity)

    def _remember(self, source: str, id: str, split: list[str]) -> None:
        self._exact.setdefault(" ".join(split), f"{source}:{id}")
        self._near.add(source, id, split)


class _NearDuplicates:
    """Texts by MinHash: candidates from a locality-sensitive index, then the estimated Jaccard similarity decides."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        # The index is tuned to a lower similarity, where it misses next to nothing at the one asked for.
        self._index = MinHashLSH(threshold=max(0.1, threshold - 0.2), num_perm=PERMUTATIONS)
        self._known: list[tuple[str, str, Any]] = []
        self._last: tuple[list[str], Any] = ([], None)
        self.nearest_of_last = 0.0

    def find(self, split: list[str], sources: Seq[str]) -> tuple[str, str, float] | None:
        """(source, id, similarity) of the most similar text from `sources` if it is too similar."""
        mine = self._hash(split)
        best: tuple[str, str, float] | None = None
        for key in sorted(int(str(key)) for key in self._index.query(mine)):
            source, id, other = self._known[key]
            similarity = float(mine.jaccard(other))
            if source in sources and (best is None or similarity > best[2]):
                best = source, id, similarity
        self.nearest_of_last = best[2] if best is not None else 0.0
        return best if best is not None and best[2] >= self.threshold else None

    def add(self, source: str, id: str, split: list[str]) -> None:
        mine = self._hash(split)
        self._index.insert(len(self._known), mine)
        self._known.append((source, id, mine))

    def _hash(self, split: list[str]) -> Any:
        if self._last[1] is None or self._last[0] != split:
            self._last = split, minhash(split)
        return self._last[1]


def minhash(split: Seq[str]) -> Any:
    """The MinHash of a text's character 5-grams."""
    made = _empty_minhash().copy()
    made.update_batch(shingles(split))
    return made


@cache
def _empty_minhash() -> Any:
    """All share its permutations and its memory: most 5-grams of a text were hashed before."""
    from datasketch import MinHash
    from datasketch.hashfunc import sha1_hash32

    remembered = lru_cache(maxsize=2**20)(lambda shingle: sha1_hash32(shingle.encode()))
    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=remembered)


def _echo(split: Seq[str]) -> Verdict | None:
    return Verdict("preamble", "repeats the instruction") if repeats_instruction(split) else None


def _verdict(reason: str, complaint: str | None, prefix: str = "") -> Verdict | None:
    return None if complaint is None else Verdict(reason, prefix + complaint)


def _complaint_of_preamble(text: str) -> str | None:
    """The label, preamble or quotation marks that a text begins with."""
    stripped = text.strip()
    for pattern in (_PREAMBLE, _LABEL):
        found = pattern.match(stripped)
        if found:
            return " ".join(found[1].lower().replace("’", "'").rstrip(" ,!.:").split())
    return "quotation marks" if _QUOTED.fullmatch(stripped) else None


def _answer_label(text: str) -> str | None:
    found = _ANSWER.search(text)
    return " ".join(found[1].lower().split()) if found else None


def _habits(texts: Seq[str], complaint: Callable[[str], str | None]) -> set[str]:
    """Complaints that apply to the gold data itself."""
    found = [complaint(text) for text in texts]
    return {one for one in found if one is not None and found.count(one) > _TOLERATED * len(texts)}


def _within(answer: str, text: str) -> bool:
    """Whether an answer of at least six words stands in the text as it is."""
    split = words(answer)
    return len(split) >= 6 and f" {' '.join(split)} " in f" {' '.join(words(text))} "
