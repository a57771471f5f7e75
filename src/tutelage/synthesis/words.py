"""The words, runs of words and scripts of a text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache


def words(text: str) -> list[str]:
    """Lower-case words without punctuation. Vowel signs stay in their words; each Han or kana character is a word."""
    return unicodedata.normalize("NFKC", text).lower().translate(_breaks()).split()


def word_runs(text_words: Sequence[str], length: int) -> list[int]:
    """A hash per run of `length` words, [words - length + 1]; hashes differ between processes."""
    return [hash(tuple(text_words[i : i + length])) for i in range(len(text_words) - length + 1)]


def shingles(text_words: Sequence[str], size: int = 5) -> set[str]:
    """The character n-grams of a text's words, joined by single spaces."""
    text = " ".join(text_words)
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


class _Breaks(dict[int, str]):
    """What each character is replaced by, computed on first use."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if unicodedata.category(char) == "Cf":  # invisible characters within words, such as a soft hyphen
            self[code] = ""
        elif unicodedata.category(char)[0] in "PSZC":
            self[code] = " "
        else:
            self[code] = f" {char} " if script_of(char) in ("CJK", "HIRAGANA", "KATAKANA") else char
        return self[code]


@cache
def _breaks() -> _Breaks:
    return _Breaks()


@cache
def script_of(char: str) -> str | None:
    """The script of a letter, by the first word of its Unicode name; None for other characters."""
    if not char.isalpha():
        return None
    name = unicodedata.name(char, "").split(" ")[0].partition("-")[0]
    return {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA"}.get(name, name) or None


def script_counts(text: str) -> Counter[str]:
    """The number of letters per script."""
    counts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        if (script := script_of(char)) is not None:
            counts[script] += count
    return counts
