"""A second answer beside the one that a reply states: "C is also right", "I also choose C", "yes if it rains, else no".

Such a reply chooses no single answer, whatever it states first. Two statements of one reply that do not replace each
other ("the answer is A, and the answer is B", "If it rains, the answer is A. Otherwise, the answer is B") are one
statement of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

BETWEEN = (  # two answers of one statement: "B, but also", "B? Maybe", "'B' or", "B, but it could also be"
    r"(?:[\s,;:/&+=|?!.()\[\]{}\"'“‘”’„…–—∨∧∪\\-]|\b(?:and|or|also|plus|but|maybe|perhaps|possibly|likely|probably|even|as|"
    r"well|in|addition|to|together|along|with|both|either|nor|versus|vs|alternatively|another|it|could|can|may|might|be|"
    r"the|equally|option|choice|answer|then|else|followed|by|respectively|rather|und|oder|et|ou|o|y)\b){1,40}"
)

_MAY = r"(?:would|could|can|may|might)"
_GOOD = (
    r"(?:an?\s+|the\s+)?(?:\w+ly\s+)?(?:correct|right|true|valid|acceptable|answer)"
    r"(?:\s+(?:answer|option|choice))?"
)
_TOO = r"(?:too|as\s+well|also)"
_IS_TOO = (  # "C is also right", "C would be right too", "C works as well"
    rf"(?:(?:(?:is|are|seems|{_MAY}\s+be)\s+(?:also|equally|likewise|just\s+as|another)|{_MAY}\s+also\s+be)\s+{_GOOD}"
    r"|(?:is|are|seems)\s+(?:equally|just\s+as)\s+(?:possible|plausible|defensible|likely|good)"
    rf"|(?:is|are|seems|{_MAY}\s+be)\s+{_GOOD},?\s+{_TOO}"
    rf"|(?:{_TOO}|equally)\s+(?:works?|fits?|applies|qualifies)|(?:works|fits|applies|qualifies)\s+{_TOO})\b"
)
_BEFORE = (  # "the answer is also C", "I also choose C", "alternative answer: C"
    rf"(?:\banswers?\s+(?:is|{_MAY}\s+be)\s+also|\b{_MAY}\s+also\s+(?:be|choose|pick|select|say|accept)|\b(?:I|we)\s+also\s+"
    r"(?:choose|pick|select|say|think)|\b(?:another|alternative)\s+(?:(?:possible|correct|right|valid)\s+)?answer\s*"
    r"(?:is|:)|\balternatively|\bor\s+is\s+it)\W{1,3}"
)
_SHORT = r"(?!not\b|n['’]t)(?:[^\n.;!?]|\.\d){1,60}?"
_THE_ANSWER = rf"(?:the|my)\s+(?:(?:correct|right|best|final)\s+)?answer\s+(?:is|{_MAY}\s+be)\s+(?:also\s+)?"
_OR_ELSE = r"(?:otherwise|else|if\s+not|in\s+the\s+other\s+case)\b,?\s+(?:then\s+)?"
_PAIRS = [  # two statements of different answers, of which neither replaces the other
    # "the answer is A and the answer is B"
    rf"\b{_THE_ANSWER}({_SHORT}),?\s+(?:and|or)\s+(?:(?:also|maybe|perhaps)\s+)?{_THE_ANSWER}({_SHORT})(?=\s*(?:[.;!?\n]|$))",
    # "If it rains, the answer is A. Otherwise, the answer is B"
    rf"\b(?:if|when|unless)\b[^.;!?\n]{{1,100}}?,\s*(?:then\s+)?{_THE_ANSWER}({_SHORT})[.;,]\s*(?:but\s+)?{_OR_ELSE}"
    rf"(?:the\s+answer\s+is|it\s+is|it's)\s+({_SHORT})(?=\s*(?:[.;!?\n]|$))",
    # "Answer 1: A\nAnswer 2: B"
    rf"^[^\w\n]{{0,9}}answer[ ]*\(?(?:1|one|A)\)?[ ]*[:=][ ]*({_SHORT})[^\w\n]{{0,9}}\n{{1,3}}[^\w\n]{{0,9}}"
    rf"answer[ ]*\(?(?:2|two|B)\)?[ ]*[:=][ ]*({_SHORT})(?=[^\w\n]{{0,9}}$)",
    # "it may be 4 and may be 3"
    rf"\b(?:answer|it)\s+{_MAY}\s+be\s+({_SHORT}),?\s+(?:and|or|but)\s+(?:it\s+)?{_MAY}\s+(?:also\s+)?be\s+({_SHORT})"
    r"(?=\s*(?:[.;!?\n]|$))",
]
_PAIR = [re.compile(one, re.I | re.M) for one in _PAIRS]
_DEPENDS = re.compile(r"\b(?:the|my)\s+answer\s+depends\b[^.\n]{1,120}\b(?:otherwise|else|if\s+not)\b[^.\n]*", re.I)
_AS_WELL = re.compile(  # "The answer is A. So the answer is B as well."
    rf"\b{_THE_ANSWER}({_SHORT}),?\s+{_TOO}(?=\s*(?:[.;!?\n]|$))", re.I
)
_STATEMENT = re.compile(rf"\b{_THE_ANSWER}({_SHORT})(?=\s*(?:[.;!?\n]|$))", re.I)
_BOTH = "the answer is both of these"  # which every reader takes for a statement of no single answer


def joined_statements(text: str) -> str:
    """The text with pairs of statements that differ and both hold as one statement, of no single answer."""
    for pair in _PAIR:
        text = pair.sub(lambda found: _BOTH if _differ(found[1], found[2]) else found[0], text)

    def added(found: re.Match[str]) -> str:
        before = _STATEMENT.findall(text[max(0, found.start() - 2000) : found.start()])
        return _BOTH if before and _differ(before[-1], found[1]) else found[0]

    return _AS_WELL.sub(added, _DEPENDS.sub(_BOTH, text))


def _differ(one: str, other: str) -> bool:
    """Whether two answers differ, of which one may say more than the other: "(B) Rome" and "B" do not."""
    left, right = (re.findall(r"\w+", answer.lower()) or [*"".join(answer.split())] for answer in (one, other))
    shared = min(len(left), len(right))
    return left[:shared] != right[:shared]


def claims_another(text: str, one: str, stated: str, value: Callable[[str], str | None] = str.lower) -> bool:
    """Whether a text that follows the statement of an answer claims a different one too.

    `one`: a pattern of all answers, without groups; `stated`: the answer, in any case; `value`: of what is claimed, to
    be compared with it. "C is also right, but" does not count.
    """
    found = (next(filter(None, match.groups())) for match in _claims(one).finditer(text))
    return any(value(other) != stated.lower() for other in found)


@cache
def _claims(one: str) -> re.Pattern[str]:
    named = rf"(?<![\w.])\(?({one})\)?(?!\w)"
    wholly = r"(?!,?\s*(?:but|though|although|however|yet|if)\b)"
    return re.compile(
        rf"{named}\s+{_IS_TOO}{wholly}|{_BEFORE}{named}(?=\s*(?:[.;:!?)\n]|$))",
        re.I,
    )


@cache
def foreign_follows(letters: str, joint: str) -> re.Pattern[str]:
    """What may follow an answer among `letters`: one more letter, that is not offered: ") and (E)", "/E", ", but it
    could also be (E)". `joint`: a pattern of what joins two answers."""
    foreign, end = (
        f"(?-i:(?![{letters}I])[A-Z])",
        r"(?=\s*(?:[,;:!?)\]}\"'”’]|\.(?![A-Z])|$|(?:and|or|because|since)\b))",
    )
    joined = rf"{joint}(?:(?:both|either)\s+)?"
    return re.compile(
        rf"[)\]}}>\"'”’]?(?:{BETWEEN}\({foreign}\){end}|{joined}{foreign}{end}|{joined}\({foreign}\))", re.I
    )


def begins_with_two(text: str, one: str, value: Callable[[str], str | None] = str.lower) -> bool:
    """Whether a text begins with two answers of the pattern `one`, which has no groups, that differ in their `value`:
    "3; 4", "Yes | No"."""
    ends = r"(?=\s*(?:[.,;!?)\]}\"'”’](?!\d)|$|(?:because|since)\b))"
    match = re.match(rf"\W*({one})(?!\w|[.,]\d)(?:{BETWEEN})({one})(?!\w|[.,]\d){ends}", text, re.I)
    return match is not None and value(match[1]) != value(match[2])


def differs_by_case(text: str, words: str) -> bool:
    """Whether a text answers one word in one case and another in another: "Yes if it rains, no if not"."""
    match = re.search(
        rf"\b(?P<one>{words})\b\)?,?\s+(?P<case>if|when|unless|for|under|in|to)\b[^\n]{{1,80}}?(?:[,;.]|\b(?:and|but|or)\b)\s*\(?"
        rf"(?:otherwise,?\s+(?P<else>{words})\b|(?P<two>{words})\b\)?,?\s+(?:(?P=case)\b|otherwise\b))",
        text,
        re.I,
    )
    return match is not None and match["one"].lower() != (match["else"] or match["two"]).lower()
