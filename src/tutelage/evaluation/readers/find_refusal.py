"""Statements that choose no answer: "none of the above", "it cannot be determined", "neither of them", "both".

Such a statement is the reply's answer as much as a letter is, and it is wrong unless it is one of the options: what was
said before it does not count.
"""

from __future__ import annotations

import re

_CANNOT = (
    r"(?:can(?:\s?not|['’]t)|could\s*(?:n['’]t|\s+not)|(?:is|are)\s*(?:n['’]t|\s+not)\s+possible\s+to|"
    r"(?:unable|not\s+able)\s+to|(?:refuse|decline)\s+to)"
)
_BE_SAID = (
    r"(?:be\s+)?(?:determin|decid|know|answer|tell|told|said|say|infer|deduc|conclud|choos|chosen|identif|establish)\w*"
)
_UNKNOWN = (
    r"(?:unclear|unknown|undetermined|indetermina\w+|undecid\w+|uncertain|ambiguous|unanswerable|inconclusive|"
    r"not\s+(?:clear|known|given|certain|sure|determin\w+|decidable|possible)|maybe|undefined|perhaps(?:\s+neither|\s*(?=[.!\n]|$))|"
    r"impossible\s+to\s+\w+|(?:insufficient|not\s+enough)\s+(?:info(?:rmation)?|data|context))\b"
)
_NOT_LISTED = (
    r"(?:not|isn['’]t)\s+(?:there|here|listed|provided|given|offered|present|among|included|in\s+the\s+(?:list|options|choices)|(?:one|any)\s+of\s+the\s+"
    r"(?:options|choices|answers|above|given|listed))\b"
)
_GIVEN = r"(?:(?:above|given|listed|provided|available|answer|offered|two|three|four|five)\s+)*"
_NONE = (  # not "none of the other options"
    rf"(?:(?:neither|none|all)\s+of\s+(?:them|these|those|(?:(?:the|these|those)\s+)?{_GIVEN}"
    r"(?:options?|choices?|answers?|statements?|sentences?|above|two|three|four|five|ten))|neither|none)\b"
    r"(?!\s*,?\s*(?:other|else|but|except|besides|apart|of\b|\w+\s+than)\b)"
)
_NO_RIGHT_ONE = (
    r"no\s+(?:(?:single|clear|definite|definitive|unique)\s+)?(?:correct|right|valid|suitable|possible|definite|"
    r"definitive|clear)?\s*(?:answer|option|choice)\b"
)
_ALL_WRONG = (
    rf"(?:all|each|every)(?:\s+(?:of\s+)?(?:them|(?:(?:the|these|those)\s+)?{_GIVEN}(?:options?|choices?|answers?)))?"
    r"\s+(?:is|are|seems?|looks?)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|invalid)\b(?!\s*,?\s*(?:but|except|besides)\b)"
)
_NONE_ELSEWHERE = (  # "none of them" in other languages, but not "none of the others"
    r"(?:keine?[rs]?\s+(?:der|dieser|von)|ningun[oa]\s+de|aucune?\s+des?|nessun[oa]\s+dell[ei])\b"
    r"(?!\s+(?:las\s+|los\s+)?(?:ander|otr|autr|altr))|以上(?:都|皆)(?:不|非|错)|无法(?:确定|判断|回答)"
)
_ADVERBS = r"(?:(?:actually|in\s+fact|clearly|simply|therefore|thus|then|likely|probably)\s+)?"

# At the beginning of what follows "the answer is", and of the last sentence.
_REFUSED = re.compile(
    rf"[\s\"'“‘(\[*]*(?:that\s+)?(?:there(?:['’]s|\s+is)\s+|(?:it|this)(?:['’]s|\s+is)?\s+|we\s+|I(?:['’]m|\s+am)?\s+)?"
    rf"{_ADVERBS}(?:{_CANNOT}\s+{_BE_SAID}|{_UNKNOWN}|{_NOT_LISTED}|{_NONE}|{_NONE_ELSEWHERE}|{_NO_RIGHT_ONE}|"
    rf"{_ALL_WRONG}|both\b|N/A\b|"
    r"does\s*(?:n['’]t|\s+not)\s+exist|nothing\b|not\s+enough\s+information)",
    re.I,
)
_UNDECIDED = re.compile(  # of those, the ones that say that no answer can be given at all
    rf"\b(?:{_CANNOT}\s+{_BE_SAID}|unanswerable|has\s+no\s+(?:correct\s+|right\s+)?answer\b|"
    r"(?:insufficient|not\s+enough|need\s+more)\s+(?:info(?:rmation)?|data|context)|"
    r"impossible\s+to\s+(?:determine|decide|say|tell|know|answer)|do(?:\s+not|n['’]t)\s+know\b(?!\s+(?:why|how|what)))",
    re.I,
)
_SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*")
_OPENING = re.compile(
    r"\W*(?:(?:so|thus|therefore|hence|in\s+conclusion|finally|but|and|however|I\s+(?:think|believe|conclude)|"
    r"it\s+follows|this\s+means)\b,?\s*)*",
    re.I,
)
_STRONG = re.compile(  # a whole sentence, so that it may follow a statement of an answer and take it back
    rf"\bnone\s+of\s+(?:the|these|those)\s+{_GIVEN}(?:options?|choices?|answers?|above)\s+"
    r"(?:(?:is|are|seems?|looks?)\s+(?:\w+ly\s+)?(?:correct|right|true|valid|suitable)|fits?|match(?:es)?|works?|"
    r"appl(?:y|ies))\b"
    r"|\bthere\s+is\s+no\s+(?:correct|right|valid)\s+(?:answer|option|choice)\b",
    re.I,
)
ANSWER_CANNOT = re.compile(  # "the answer cannot be determined", "the answer does not exist": no "is" before it
    rf"\banswer(?:\s+(?:to|for)\s[^\n.:=]{{1,80}}?)?\s+"
    rf"(?={_CANNOT}\s+{_BE_SAID}|does\s*(?:n['’]t|\s+not)\s+exist|isn['’]t\s)",
    re.I,
)


def refuses(tail: str) -> bool:
    """Whether a text, such as what follows "the answer is", begins by choosing none, or all, of the answers."""
    return _REFUSED.match(tail) is not None


def refused_flatly(text: str) -> int:
    """Where the last sentence like "none of the options is correct" ends; −1 where there is none."""
    return max((match.end() for match in _STRONG.finditer(text)), default=-1)


def last_refusal(text: str, undecided_only: bool = False) -> int:
    """Where the last sentence begins if it chooses no answer ("So neither of them."), else −1.

    `undecided_only`: only where it says that no answer can be given ("It cannot be determined.").
    """
    sentences = list(_SENTENCE.finditer(text[-2000:]))
    if not sentences:
        return -1
    last = sentences[-1]
    start = len(text) - min(2000, len(text)) + last.start()
    if _UNDECIDED.search(last[0]):
        return start
    opening = _OPENING.match(last[0])
    rest = last[0][opening.end() if opening else 0 :]
    return -1 if undecided_only or not refuses(rest) else start


def same_refusal(option: str, tail: str) -> bool:
    """Whether an option chooses no answer in the way that a text does: "None of these" for "none of the above"."""
    kinds = (_CANNOT, _UNKNOWN, _NONE, _NO_RIGHT_ONE)
    head = tail[:80]
    return any(re.search(kind, option, re.I) and re.search(kind, head, re.I) for kind in kinds)
