"""Statements in parallel: different answers of one reply that all hold, so that it chooses none.

Of statements that follow each other the last one counts, as in a chain of thought, unless they are in parallel:

| | example |
|---|---|
| in one sentence | "the answer is A, and the answer is B" |
| one after the other, with no more than "so" between | "Final answer: A\\nFinal answer: B" |
| labelled alike | "1. Answer: A\\n2. Answer: B", "Part 1: A. Part 2: B" |
| in different cases | "If it rains, the answer is A. Otherwise, the answer is B" |
| the second as well as the first | "The answer is A. … The answer is B as well." |

A word that corrects ("but", "no", "finally", "correction") between two of them makes the later one the answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MAY = r"(?:would|could|can|may|might)"
_ONE = (  # an answer that is no more than one: "(A)", "(A) Paris", "A", "no", "3"
    r"(?:\([A-Z]\)(?:[ ][^\W_][^\n.;!?,]{0,60}(?=\n|$))?|(?-i:[A-Z])|yes|no|true|false|(?:in)?valid|[-−$]?\d[\d,.]*)"
    r"(?=\s*(?:[.,;!?)](?!\d)|\n|$|(?:and|or|but|for|if|when|unless|in|while|whereas|as|too)\b))"
)
_SHORT = (  # any answer
    r"(?!not\b|n['’]t)(?:[^\n.;!?,]|[.,]\d){1,60}?"
    r"(?=\s*(?:[.;!?,](?!\d)|\n|$|(?:and|or|but|for|if|when|unless|in|while|whereas|as\s+well|too)\b))"
)
_ORDINAL = r"(?:first|second|third|fourth|1st|2nd|3rd|4th)"
_PART = r"(?:q|part|(?:sub-?)?question|problem|case|blank|item|answer|statement|scenario|interpretation|reading)"
_PART_LABEL = rf"(?:{_PART}\s*\(?(?:\d|[a-e]|one|two|three|four)\)?|(?:the\s+)?{_ORDINAL}(?:\s+(?:{_PART}|one))?)"
_STATEMENT = re.compile(
    rf"(?:(?P<cue>\b(?:the|my|an?)\s+(?:\w+\s+)?answer(?:\s+(?:to|for)\s[^\n.:=;]{{1,60}}?)?\s+(?:is|"
    rf"{_MAY}\s+be)\s+(?:(?!actually|really)\w+ly\s+)?(?:also\s+)?)"
    rf"(?P<short>{_SHORT})"
    rf"|(?:\b|(?=####))(?:answer(?:\s+(?:to|for)\s[^\n.:=;]{{1,60}}?)?(?:\s+is|\s*[:=])|I(?:['’]d|"
    rf"\s+would)?\s+(?:choose|pick)|####|(?P<it>it(?:['’]s|\s+is)))"
    rf"\s+(?P<one>{_ONE})"
    rf"|\b(?:it\s+)?(?P<may>{_MAY})\s+(?:also\s+)?be\s+(?P<maybe>{_ONE})"
    rf"|^[^\w\n]{{0,9}}answer[ ]*\(?(?:\d|one|two|three|[A-E])\)?[ ]*[:=][ ]*(?P<numbered>{_SHORT})"
    rf"|(?:^|(?<=[.;\n,]\s)|(?<=\n))[^\w\n]{{0,9}}{_PART_LABEL}\s*[:=–—-]\s*(?P<part>{_ONE})"
    rf"|\b(?:if|when|for|in|under)\b[^.;!?\n,:]{{1,60}}[,:]\s*(?![-−$]?\d)(?P<cased>{_ONE}))"
    r"(?P<too>,?\s+(?:too|as\s+well|also)\b)?",
    re.I | re.M,
)
_ENUMERATED = re.compile(  # a whole reply: "1. Yes\n2. No", "a) B\nb) D"
    rf"(?:\s*(?:\(?(?:\d|(?-i:[a-e])|i{{1,3}})[.)]|[-*•])\s*{_ONE}[ \t.,;]*(?:\n|$)){{2,20}}\s*", re.I
)
_SO = r"(?:so|and|or|thus|therefore|hence|the|my|an?|final|correct|best|right|(?:an)?other|alternative|second|possible)"
_NOTHING = re.compile(rf"[\s.;,!]*(?:{_SO}[\s,]+)*", re.I)  # between two statements that repeat each other
_LABEL = rf"(?:[-*•]|\(?(?:\d{{1,2}}|[a-e]|i{{1,3}})[.)]|{_PART_LABEL}\s*[:,.)]?|(?:for|in|on)\s+{_PART_LABEL},?)"
_LABELLED = re.compile(rf"[\s.;,!]*(?:and\s+)?{_LABEL}\s*(?:{_SO}\s+)*", re.I)
_CASE = (  # "if it rains,", "for men"; not "for this reason", "in conclusion", "for the final step"
    r"\b(?P<case>if|when|unless|assuming|suppose|for|in|under|with)\b(?!\s+(?:this|these|that|such|all|our|"
    r"conclusion|summary|"
    r"short|fact|total|sum|other\s+words|the\s+end|example|instance|reality)\b)"
    r"(?![^.;!?\n]{0,30}\b(?:final|last|whole|"
    r"overall)\b)[^.;!?\n]{1,100}?(?:[,:]\s*)?(?:then\s+)?(?:{so}\s+)*".replace("{so}", _SO)
)
_FIRST_CASE = re.compile(rf"{_CASE}\Z", re.I)
_NEXT_CASE = re.compile(rf"[\s.;,!–—-]*(?:(?:but|and|or|while|whereas)\s+)?{_CASE}", re.I)
_ELSE = re.compile(
    rf"\b(?:otherwise|else|if\s+not|in\s+the\s+other\s+case|in\s+which\s+case)\b,?\s*(?:then\s+)?(?:{_SO}\s+)*\Z", re.I
)
_DECIDED = re.compile(  # which case holds
    r"\W*(?:since|as|because|here|given|in\s+(?:this|our)|so|thus|now|we)\b", re.I
)
_JOINT = re.compile(r",?\s*(?:and|or)\s+(?:(?:also|maybe|perhaps)\s+)?", re.I)
_CORRECTS = re.compile(
    r"[.!?\n]|\b(?:but|no|rather|actually|wait|so|therefore|thus|hence|not|finally|however|then|instead|thought|"
    r"which|because|"
    r"since|correction)\b|n['’]t\b",
    re.I,
)
_OVERRULES = re.compile(r"[\s)*]*,?\s*(?:and\s+|but\s+)?(?:not|rather\s+than|instead\s+of)\b", re.I)  # "B, not A"
_REVISED = re.compile(r"\bmy\s+(?:revised|updated|corrected|new)\b", re.I)
_CONCLUDES = re.compile(r"\b(?:so|thus|therefore|hence|final|overall)\b", re.I)
_SENTENCE_ENDS = re.compile(r"(?<!\b\d)[.;!?]\s|\n")  # not that of "1. Answer"
_DEPENDS = re.compile(r"\b(?:the|my)\s+answer\s+depends\b[^.\n]{1,120}\b(?:otherwise|else|if\s+not)\b[^.\n]*", re.I)
SEVERAL_HOLD = "the answer is both of these"  # which every reader takes for a statement of no single answer


def joined_statements(text: str) -> str:
    """The text with runs of parallel statements that differ as one statement, of no single answer."""
    if _ENUMERATED.fullmatch(text):
        ones = re.findall(_ONE, text, re.I)
        return SEVERAL_HOLD if any(_differ(ones[0], one) for one in ones) else text
    text = _DEPENDS.sub(SEVERAL_HOLD, text)
    parts, end = list[str](), 0
    run: _Run | None = None
    for found in _STATEMENT.finditer(text):
        if run is None or not _parallel(text, run, found):
            run = _Run(found, found, False)
            continue
        differs = run.differs or _differ(_answer(run.first), _answer(found))
        if differs:
            parts += [] if run.differs else [text[end : run.first.start()], f" {SEVERAL_HOLD}"]
            end = found.end()
        run = _Run(run.first, found, differs)
    return "".join([*parts, text[end:]]) if parts else text


class _Run(NamedTuple):
    """Statements in parallel."""

    first: re.Match[str]
    last: re.Match[str]
    differs: bool


def _parallel(text: str, run: _Run, found: re.Match[str]) -> bool:
    """Whether a statement is in parallel with those of a run, the last before it."""
    last, gap = run.last, text[run.last.end() : found.start()]
    if _OVERRULES.match(text, found.end()) or _REVISED.search(found[0]):
        return False
    if found["too"]:
        return True
    if found["may"] and not found[0].lower().startswith("it"):  # "it may be 4 and may be 3"
        return last["may"] is not None and _JOINT.fullmatch(f"{gap} ") is not None
    if len(gap) > 250 or run.first["it"] or (run.differs and _CONCLUDES.search(f"{gap}{found[0]}")):
        return False
    atomic = _sort(last) is not None and _sort(last) == _sort(found)
    if last["cased"] or found["cased"]:
        both = bool(last["cased"] and found["cased"]) and not re.search(r"\w", gap)
        return both and not _DECIDED.match(text, found.end())
    if (atomic and not found["it"] and _NOTHING.fullmatch(gap)) or _JOINT.fullmatch(gap):
        return True
    if last["numbered"] and found["numbered"]:
        return True
    lead = _SENTENCE_ENDS.split(text[max(0, run.first.start() - 150) : run.first.start()])[-1]
    labelled = last is not run.first or run.first["part"] or _LABELLED.fullmatch(lead)
    if labelled and (_LABELLED.fullmatch(gap) or (found["part"] and not re.search(r"\w", gap))):
        return True
    case, following = _FIRST_CASE.search(lead), _NEXT_CASE.fullmatch(gap)
    if _ELSE.search(gap) or (case and following and _kind(following) == _kind(case)):
        return not _DECIDED.match(text, found.end())
    return atomic and not _CORRECTS.search(gap)


def _sort(found: re.Match[str]) -> str | None:
    """The sort of a statement's answer: letter, number or word; None for what is more than one of them."""
    answer = _answer(found)
    if not re.fullmatch(_ONE, answer, re.I):
        return None
    return "number" if re.search(r"\d", answer) else "letter" if len(re.findall(r"\w+", answer)[0]) == 1 else "word"


def _kind(case: re.Match[str]) -> str:
    word = case["case"].lower()
    return "if" if word in ("if", "when", "unless", "assuming", "suppose") else word


def _answer(found: re.Match[str]) -> str:
    return next(filter(None, (found[name] for name in ("short", "one", "maybe", "numbered", "part", "cased"))))


def _differ(one: str, other: str) -> bool:
    """Whether two answers differ, of which one may say more than the other: "(B) Rome" and "B" do not."""
    one, other = (re.sub(r"(?<=\d),(?=\d{3})", "", answer) for answer in (one, other))
    left, right = (re.findall(r"\w+", answer.lower()) or [*"".join(answer.split())] for answer in (one, other))
    shared = min(len(left), len(right))
    return left[:shared] != right[:shared]
