"""In which languages rows are, where that is sure: short texts, codes and lists of names look like any language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

ROWS = 40  # places in the file that are looked at
WORDS, SURE = 15, 0.95  # different words of a text that tells a language, and its probability then
LETTERS = 0.8  # share of letters and spaces in such a text; code and tables have fewer
SAID = 0.2, 0.5  # shares of the places: of a language that is named, and of all that are
_WORD = re.compile(r"[^\W\d_]{2,}")


def languages(texts: Sequence[str]) -> str:
    """What a user should know of the languages of the rows' texts: "; language probably en", or ""."""
    if find_spec("langdetect") is None:
        return "; languages not told apart (langdetect is not installed: pip install langdetect)"
    import langdetect

    langdetect.DetectorFactory.seed = 0  # otherwise its answers change from call to call
    places = range(0, len(texts), max(1, len(texts) // ROWS))
    found: Counter[str] = Counter()
    for text in (_enough(texts, place) for place in places):
        if text:
            likeliest = langdetect.detect_langs(text)[0]
            found[likeliest.lang] += likeliest.prob >= SURE
    named = {code: count for code, count in found.most_common() if count >= SAID[0] * len(places)}
    return f"; language probably {', '.join(named)}" if sum(named.values()) >= SAID[1] * len(places) > 0 else ""


def _enough(texts: Sequence[str], place: int) -> str:
    """The text at a place, with those after it until there are words enough; "" where there are not."""
    text = ""
    for one in texts[place : place + WORDS]:
        text = f"{text} {one[:1000]}".strip()
        if len({word.lower() for word in _WORD.findall(text)}) >= WORDS:
            letters = sum(letter.isalpha() or letter.isspace() for letter in text)
            return text if letters >= LETTERS * len(text) else ""
    return ""
