"""A second answer beside the one that a reply states: "C is also right", "I also choose C", "yes if it rains, else no".

Such a reply chooses no single answer, whatever it states first.
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


def claims_another(text: str, one: str, stated: str) -> bool:
    """Whether a text that follows the statement of an answer claims a different one too.

    `one`: a pattern of all answers, without groups; `stated`: the answer, in any case. "C is also right, but" does
    not count.
    """
    found = (next(filter(None, match.groups())) for match in _claims(one).finditer(text))
    return any(other.lower() != stated.lower() for other in found)


@cache
def _claims(one: str) -> re.Pattern[str]:
    named = rf"(?<![\w.])\(?({one})\)?(?!\w)"
    wholly = r"(?!,?\s*(?:but|though|although|however|yet|if)\b)"
    return re.compile(
        rf"{named}\s+{_IS_TOO}{wholly}|{_BEFORE}{named}(?=\s*(?:[.;:!?)\n]|$))",
        re.I,
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
