"""Letters that a reply calls right: "(B) is the correct one", "option A and option C are both correct"."""

from __future__ import annotations

import re
from collections.abc import Sequence

NO_SINGLE = ""  # what a statement answers that chooses no single option
NOUN = r"(?i:\b(?:option|choice|answer|statement|letter)s?)"  # before a letter

_OWN = "\uf100"  # stands for a character of an option's text behind its letter
_PATTERN = re.compile(
    rf"(?:{NOUN}\s+)?(?<![\w'’])\(?([A-Z⁂])\)?(?P<own>{_OWN}*)"
    r"(?:\s+(?P<verb>is|are|seems|looks|would be)\s+|:\s+(?:[Tt]his\s+is\s+)?)"
    r"(?:(?:the|most|only|both|all|(?P<also>also|equally|likewise))\s+)*"
    r"(?P<right>correct|right|best|true|answer|likely)\b(?P<noun>\s+(?:answer|option|choice|one)\b)?"
)
_SO_IS = re.compile(  # after a judgement: ", and so is (C)", " at first, but so does (B)"
    rf"[^.!?\n]{{0,40}}?[,;]?\s+(?:and|but)\s+so\s+(?:is|does|would)\s+(?:{NOUN}\s+)?\(?([A-Z])(?!\w)"
)
_CONCLUSION = re.compile(  # a sentence's beginning up to "B is the right answer"
    r"(?:^|[.!?,;]\s|\n)[^\w\n]*(?:(?i:so|thus|therefore|hence|then|now|wait|but|and|instead|actually|in\s+fact|"
    r"I\s+(?:now\s+)?"
    r"(?:think|believe|see|realize)(?:\s+that)?)\b[\s,:]*)+"
    rf"(?:{NOUN}\s+)?\(?[A-Z]\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\s+(?:answer|option|choice|one)\Z"
)
_JOINED = re.compile(  # before a letter: "option A and", "A, ", "(A) or"
    rf"(?:{NOUN}\s+)?(?<![\w'’])\(?([A-Z])\)?{_OWN}*(?:,?\s+(?P<word>and|or|as\s+well\s+as)\s+|\s*[,&/+]\s*)\Z"
)


def judged_right(text: str, letters: str, options: Sequence[str] = ()) -> tuple[int, str | None]:
    """Where the last judgement like "(B) is the correct one" ends, and its letter; (−1, None) without one.

    NO_SINGLE where the letter is not offered, another is "also" right, or one sentence, or one subject ("(B) Rome and
    (D) Bonn are"), says so of two.
    """
    text = re.sub(r"\([a-z]\)", lambda found: found[0].upper(), text)
    text = without_own_texts(text, letters, options, _OWN)
    matches = [
        one
        for one in _PATTERN.finditer(text)
        if (one[1] in letters or one["right"] not in ("true", "likely")) and (not one["own"] or _joined(text, one))
    ]
    if not matches:
        return -1, None
    last, found = matches[-1], matches[-1][1]
    if last["also"] and not matches[1:]:  # "equally right", as something else
        return -1, None
    so_is = _SO_IS.match(text, last.end())
    if _joined(text, last) or (so_is and so_is[1] != last[1]):
        found = NO_SINGLE
    for before in matches[:-1]:
        between = text[before.end() : last.start()]
        # in one sentence, or in two with nothing between
        together = not re.search(r"[.!?\n;]|\b(?:but|however|while|although|though|not)\b", between) or re.fullmatch(
            r"(?:[\s.;(]|\b(?:and|also|too|I|think|believe|that|one|answer|option)\b)*", between
        )
        if before[1] != last[1] and (last["also"] or together):
            found = NO_SINGLE
    return last.end(), found if found in letters else NO_SINGLE


def is_conclusion(text: str) -> bool:
    """Whether a text ends with a judgement as its conclusion: "So B is the right answer"."""
    return _CONCLUSION.search(text[-200:]) is not None


def _joined(text: str, found: re.Match[str]) -> bool:
    """Whether a different letter is joined to the one that is called right; not in "I looked at A and B is right"."""
    before = _JOINED.search(text, max(0, found.start() - 400), found.start())
    return before is not None and before[1] != found[1] and (found["verb"] != "is" or before["word"] == "or")


def without_own_texts(text: str, letters: str, options: Sequence[str], instead: str = "") -> str:
    """The text with letters alone where an option's own text follows: "(C) Oslo" → "(C)".

    `instead`: takes the place of each character that is left out.
    """
    lower = text.lower()
    for one, option in zip(letters, options, strict=False):
        if not option or option not in lower:
            continue
        own = rf"(\({one}\)|(?<![\w(]){one})([\s)\]}}>.,:\"'”’-]*\(?(?i:(?:the )?{re.escape(option)})(?!\w)\)?)"
        text = re.sub(own, lambda found: found[1] + instead * len(found[2]), text)
    return text
