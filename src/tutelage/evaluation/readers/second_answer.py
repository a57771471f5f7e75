"""A second answer beside the one that a reply states: "C is also right", "I also choose C", "yes if it rains, else no".

Such a reply chooses no single answer, whatever it states first. Two statements of one reply that do not replace each
other ("the answer is A, and the answer is B", "Final answer: A\\nFinal answer: B") are one statement of both.

Of letters the burden of proof lies on the single answer (`names_another`): a second letter in the statement's sentence
is an answer too, unless something there sets it aside. Words and numbers occur in any sentence, so for them it lies on
the second answer: it must be joined to the first, or claimed (`claims_another`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

SEVERAL = "⁂"  # stands for letters that are left open: "A or B"
NO_PRONOUN = (  # before a letter: "I think" is none, "I or J", "I is right", "option I would" are
    r"(?:(?<=ption )|(?<=hoice )|(?!I\s+(?!(?:is|are|and|or|nor)\b)[a-z]))"
)
_JOINING = (
    "and|or|also|plus|but|maybe|perhaps|possibly|likely|probably|even|as|well|in|addition|to|together|along|with|both|"
    "either|nor|versus|vs|alternatively|another|it|could|can|may|might|be|the|equally|option|choice|answer|then|else|"
    "followed|by|respectively|rather|und|oder|et|ou|o|y"
)
BETWEEN = (  # two answers of one statement: "B, but also", "B? Maybe", "'B' or", "B, but it could also be"
    rf"(?:[\s,;:/&+=|?!.()\[\]{{}}\"'“‘”’„…–—∨∧∪\\-]|\b(?:{_JOINING})\b){{1,40}}"
)

_MAY = r"(?:would|could|can|may|might)"
_TOO = r"(?:too|as\s+well|also)"
_RIGHT = r"(?:correct|right|true|valid|answer|choice|option|good|fine|likely|works?|fits?|applies|qualifies|do)"
_COUNTS = re.compile(  # after an answer: "is possible", "would also be right", "is right too", "works as well"
    rf"(?=[\s)]+(?:is|are|seems|being|{_TOO}|equally|works|fits|applies|qualifies|"
    rf"{_MAY})\b)[^,.]{{0,30}}?\b(?:(?:(?:possible|plausible)(?!\s+(?:readings?|interpretations?)\b)|"
    rf"defensible|arguable|acceptable|alternative|(?:also|equally|likewise|just\s+as|"
    rf"another)\s+(?:\w+\s+){{0,2}}{_RIGHT}"
    rf"|{_RIGHT},?\s+{_TOO}|{_TOO}\s+{_RIGHT})\b)",
    re.I,
)
_THOUGH = re.compile(
    r",?\s{0,3}(?:though|however|anyway|either)\W*$", re.I
)  # at a sentence's end, which limits nothing
_OFFERED = re.compile(  # before an answer: "the answer is also", "I also choose", "alternative answer:"
    rf"(?:\banswers?\s+(?:is|{_MAY}\s+be)\s+also|\b(?:(?:I|we|{_MAY})\s+also|could(?:\s+also)?)\s+(?:be|choose|"
    rf"pick|select|say|think|accept|"
    r"defend|justify)|"
    r"\bargue\s+for|\b(?:another|alternative)\s+(?:\w+\s+)?answer\s*(?:is|:)|\balternatively|\bor\s+is\s+it)\W{1,3}$",
    re.I,
)
_MAY_BE = re.compile(
    rf"[\s)]+{_MAY}\s+(?:very\s+|\w+ly\s+)?be\s+(?:\w+ly\s+)?(?:{_RIGHT}|argued|defended|justified|"
    rf"accepted)\b(?!\s+to\b)",
    re.I,
)
_ALSO = re.compile(rf"\b(?:additionally|in\s+addition|likewise|similarly|equally|no\s+less|just\s+as|{_TOO})\b", re.I)
_GOOD = re.compile(  # what is said of an answer, and not of a thing
    r"\b(?:correct|right|valid|acceptable|(?:im)?plausible|reasonable|defensible|possible(?!\s+to\b)|merits?|"
    r"case\s+(?:for|can|could)|"
    r"accept|would\s+work|fits)\b",
    re.I,
)
_SO_IS = re.compile(r"\bso\s+(?:is|are|does|would|might)\W{1,3}$", re.I)
_OUT = r"(?:exclude|rule\s+out|dismiss|discard|eliminate|reject)"
_NOT_OUT = re.compile(  # "cannot be excluded", "is not wrong", "isn't impossible": two negatives
    r"(?:(?<=\S)\s{1,3}(?:can(?:\s?not|['’]t)|(?:could|should|must)(?:n['’]t|"
    r"\s+not))\s+(?:\w+ly\s+)?be\s+(?:ruled\s+out|"
    r"excluded|dismissed|discarded|"
    r"eliminated|rejected)|(?<=\S)\s{1,3}(?:(?:is|are|would\s+be|seems)(?:n['’]t|\s+not)|would(?:n['’]t|"
    r"\s+not)\s+be)\s+(?:\w+ly\s+)?(?:wrong|incorrect|"
    r"impossible|implausible|unreasonable|out\s+of\s+the\s+question))\b",
    re.I,
)
_NOT_LEFT_OUT = re.compile(  # "we cannot rule out", "it is hard to exclude"
    rf"\b(?:can(?:\s?not|['’]t)|(?:could|would|do|did|should)(?:n['’]t|\s+not)|(?:it(?:['’]s|\s+is)\s+|"
    rf"is\s+)?(?:hard|difficult|impossible|no\s+reason|no\s+way)\s+to)\s+"
    rf"(?:\w+ly\s+)?{_OUT}\s+|\bnothing\s+(?:speaks|argues)\s+against\s+",
    re.I,
)
_LESSER = re.compile(  # ", though D is possible"
    r"[,;]?\s{0,3}\(?\b(?:though|although|but|while)\s+[^,.;!?\n]{1,40}?\s(?:is|are|" + _MAY + r"\s+be|seems?|"
    r"remains?)\s+(?:also\s+)?"
    r"(?:possible|plausible|conceivable|arguable|defensible)\b[^,.;!?\n]{0,30}",
    re.I,
)
_BEST = re.compile(r"\b(?:best|most\s+(?:likely|probabl[ey]|plausible|reasonable|appropriate))\b[^.!?\n]*\Z", re.I)
YET = re.compile(
    r"\b(?:but|though|although|however|yet|if|only|(?<!no )less|not|un\w+|in\w*correct|wrong)\b|n['’]t\b", re.I
)


def left_open(text: str) -> str:
    """The text with two negatives about an answer as a claim ("D cannot be excluded": "D is possible too"), and without
    answers that it calls possible but ranks below another ("most likely B, though D is possible")."""
    text = _LESSER.sub(lambda one: "" if _BEST.search(text[max(0, one.start() - 100) : one.start()]) else one[0], text)
    return _NOT_LEFT_OUT.sub("could also accept ", _NOT_OUT.sub(" is possible too", text))


def claims_another(text: str, one: str, stated: str, value: Callable[[str], str | None] = str.lower) -> bool:
    """Whether a text that follows the statement of an answer claims a different one too.

    `one`: a pattern of all answers, without groups; `stated`: the answer, in any case; `value`: of what is claimed, to
    be compared with it. "C is also right, but" does not count.
    """
    return any(
        _is_claimed(sentence[: other.start()], sentence[other.end() :])
        for sentence in _SENTENCE_END.split(text)
        for other in re.finditer(rf"(?<![\w.])(?:{one})(?!\w)", sentence, re.I)
        if value(other[0]) != stated.lower()
    )


def _is_claimed(before: str, after: str) -> bool:
    """Whether the words around an answer in its sentence say that it is right or possible too."""
    after = _THOUGH.sub("", after)
    offered = _OFFERED.search(before[-60:]) and re.match(rf"[\s)]*(?:[.,:)]|{_TOO}\b|$)", after)
    said = f"{before} {after}"
    also = _ALSO.search(said) and _GOOD.search(said) and (len(said) < 60 or _ALSO.search(before[-20:]))
    right = _SO_IS.search(before) or _COUNTS.match(after) or _MAY_BE.match(after)
    return bool(offered or also or right) and not YET.search(after)


_VERB = r"(?:is|are|was|were|has|have|can|cannot|could|would|will|does|do|did|may|might|being|[a-z]{3,}s)"
# An option's letter, in brackets or bare, which is no pronoun, article, quantity ("E = mc2") or argument ("P(A)").
LETTER = re.compile(
    rf"(?<!\w)(?<!\w['’(])(?<![.-])(?:[(\[{{<]([A-Z]|[a-hj-z])[)\]}}>]|{NO_PRONOUN}(?!A\s+(?!(?:{_VERB}|"
    rf"{_JOINING}|too)\b)\w)"
    rf"([A-Z])(?!['’-]?\w)(?!\s*[=<>^]|\()|{SEVERAL})"
)
_SENTENCE_END = re.compile(  # not that of "A. Paris", nor in "B for men; for women, D."
    r"\n\s*(?:\d+[.)]\s)?|[!?]|(?<!\b[A-Z])\.(?!\w)|;(?![^;.!?\n]{0,40}\b[A-Z]\b\W*(?:[.;]|$))"
)
_REASON = re.compile(r"\b(?:because|since)\b", re.I)
_FILLER = re.compile(rf"\b(?:{_JOINING}|is|are|should|would|I'd|I|say|choose|pick|too)\b|[\W_]", re.I)
NO_NAME = re.compile(  # before a bare letter: "vitamin C" and "blood group B" are names
    rf"(?:^|[^\w\s\"“'‘]|\b(?:{_JOINING}|although|though|while|whereas|that|pick|choose|select|say|accept|"
    rf"defend|justify|guess|think|for|"
    r"is|are|if|not|[A-Z]))[\s\"“'‘]*$",
    re.I,
)
_SET_ASIDE = re.compile(  # before a letter: a reason, a comparison
    r"\b(?:because|since|as(?!\s+well)|given|due|where|when|which|that|who|others?|remaining|rather|instead|"
    r"over|than|unlike|"
    r"(?<!if )not|(?<!together )(?<!along )with|from|among)\b|n['’]t\b|:|,\s*for\b",
    re.I,
)
_HAS_VERB = re.compile(rf"\s+{_VERB}\b", re.I)
_ARE, _AND = re.compile(r"[\s)]+(?:are|were|have)\b", re.I), re.compile(r"\b(?:and|or)\b|&", re.I)


def names_another(rest: str, letter: str, letters: str, wrapped: bool) -> bool:
    """Whether the text after a stated option's letter names another, offered or not, that may be the answer too.

    In the statement's own sentence every letter is one, but for what a reason or a comparison sets aside and what has
    a verb of its own ("B, and C is small"; in "B and C are similar" it is that of both). So is one in the sentences
    that follow at once and only join it ("Or C."). So is, anywhere, a letter that is said to be possible or right too.
    `wrapped`: the stated letter is in brackets, so that bare ones may be symbols.
    """
    joins = True
    for number, sentence in enumerate(_SENTENCE_END.split(rest)):
        words = _words(sentence)
        joins = joins and not (number and _words(_REASON.split(sentence)[0]))
        for name in LETTER.finditer(sentence):
            before, after = sentence[: name.start()], sentence[name.end() :]
            one = (name[1] or name[2] or "").upper()
            symbol = one not in letters or (wrapped and name[2])
            if one == letter or (name[2] and not NO_NAME.search(before[-30:])):
                continue
            claimed = _is_claimed(before, after)
            if symbol and _words(before) and not (claimed and one in letters):
                continue
            shared = _ARE.match(after) and _AND.search(before) and not _words(before)
            aside = words and (_SET_ASIDE.search(before) or (_HAS_VERB.match(after) and not shared))
            if claimed or (joins and not aside):
                return True
    return False


def _words(text: str) -> str:
    """What a text says beside letters and words that join them."""
    return _FILLER.sub("", LETTER.sub("", text))


def begins_with_two(text: str, one: str, value: Callable[[str], str | None] = str.lower) -> bool:
    """Whether a text begins with two answers of the pattern `one`, which has no groups, that differ in their `value`:
    "3; 4", "Yes | No"."""
    ends = r"(?=\s*(?:[.,;!?)\]}\"'”’](?!\d)|$|(?:because|since)\b))"
    match = re.match(rf"\W*({one})(?!\w|[.,]\d)(?:{BETWEEN})({one})(?!\w|[.,]\d){ends}", text, re.I)
    return match is not None and value(match[1]) != value(match[2])


def differs_by_case(text: str, words: str) -> bool:
    """Whether a text answers one word in one case and another in another: "Yes if it rains, no if not"."""
    match = re.search(
        rf"\b(?P<one>{words})\b\)?(?:(?:\s+[a-z]+){{1,2}}?(?=,?\s+(?:if|unless)\b))?,?\s+(?P<case>if|when|unless|for|"
        rf"under|in|to)\b[^\n]{{1,80}}?(?:[,;.]|"
        rf"\b(?:and|but|or)\b)\s*\(?"
        rf"(?:otherwise,?\s+(?P<else>{words})\b|(?P<two>{words})\b\)?,?\s+(?:(?P=case)\b|otherwise\b)|"
        rf"(?P=case)\s[^\n.;,]{{1,40}}?[:,]?\s+(?P<last>{words})\b(?!\s+\w))"
        rf"|\b(?P<outer>{words})\b\s*\((?:or\s+)?(?P<inner>{words})\s+(?:if|when|for|in|under)\b",
        text,
        re.I,
    )
    if match is None:
        return False
    other = match["else"] or match["two"] or match["last"] or match["inner"]
    return (match["one"] or match["outer"]).lower() != other.lower()
