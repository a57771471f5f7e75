"""Words, word runs and scripts of a text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache


def words(text: str) -> list[str]:
    """Lower-case words without punctuation. Vowel signs stay in their words; Han and kana characters are words each."""
    return unicodedata.normalize("NFKC", text).lower().translate(_breaks()).split()


def runs(text_words: Sequence[str], length: int) -> list[int]:
    """A number for every run of `length` words; the same within one process."""
    return [hash(tuple(text_words[i : i + length])) for i in range(len(text_words) - length + 1)]


def shingles(text_words: Sequence[str], size: int = 5) -> set[str]:
    """The character n-grams of a text, spaces made one."""
    text = " ".join(text_words)
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


class _Breaks(dict[int, str]):
    """What becomes of each character, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if unicodedata.category(char) == "Cf":  # invisible, as a soft hyphen, and within words
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
    counts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        if (script := script_of(char)) is not None:
            counts[script] += count
    return counts
