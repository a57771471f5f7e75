"""Clauses that name an answer without stating it: denied or doubted, asked for, supposed, said by others, or a heading.

Negatives are counted: of an odd number a claim is denied ("it is wrong to say that the answer is B"), of an even one
it is made ("I don't doubt that the answer is B").
"""

from __future__ import annotations

import re

from tutelage.evaluation.readers.taken_back import NEGATIVE

_ANSWER = r"(?:the|my)\s+(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)"
_CLAIM = re.compile(  # what a clause may deny: "that the answer is", "that (B) is correct", "to choose B"
    r"\b(?P<by>(?:that|say(?:ing)?|think|believe|claim|conclude|agree|suppose|argue|doubt|sure|certain|convinced)\s+"
    r"(?=(?P<claim>(?:(?:the|my|this)\s+(?:\w+\s+)?\w+|it|this|that|(?:option\s+)?\(?(?-i:[A-Z])\)?)"
    r"(?:['’]s|\s+(?:is|was|(?:should|could|can|would|must)\s+be)))\s+(?!not\b))"
    r"|(?:choos(?:e|ing)|pick(?:ing)?|select(?:ing)?|go(?:ing)?\s+(?:with|for)|tak(?:e|ing)|accept(?:ing)?|"
    r"answer(?:ing)?)\s+"
    r"(?=(?:option\s+)?\(?(?-i:[A-Z])\b))(?:(?P=claim)\s+)?",
    re.I,
)
_CLAUSE_ENDS = re.compile(
    r"[.,;:!?\n…()]|\b(?:so|thus|but|because|since|hence|therefore|and|or|which|whereas|while|although|though|"
    r"if|when|unless|"
    r"then)\b",
    re.I,
)
_IS_FALSE = re.compile(  # "That the answer is B is wrong", "to say the answer is B would be a mistake"
    r"\b(?:that|say(?:ing)?)\s+((?:the|my)\s+(?:\w+\s+)?answer\s+is)\s+([^.,;!?\n]{1,40}?)\s+(?:is|was|"
    r"would\s+be)\s+(?:an?\s+)?"
    r"(?:wrong|incorrect|false|untrue|mistaken?|error)\b",
    re.I,
)
_HARDLY = re.compile(
    r"(?<=\banswer )(?:is|was|(?:can|could|would)\s+be)\s+"
    r"(?:hardly|scarcely|never|by\s+no\s+means|far\s+from(?:\s+being)?)\s+",
    re.I,
)
_SUPPOSED = re.compile(  # "If the answer is B, …", "whether the answer is B"
    rf"\b(?:if|whether|suppos(?:e|ing)|assum(?:e|ing)|unless)\s+(?:that\s+)?(?:{_ANSWER}|(?:the|this)\s+argument)\s+"
    r"(?:is|was|were|(?:should|would|could)\s+be)\s[^,.;!?\n]{1,80}|\bwhether\s+it\s+is\s+\(?(?-i:[A-Z])\b\)?",
    re.I,
)
_CLAIMED = re.compile(  # "One might think that the answer is B", "Many people say the answer is B"
    r"\b(?:(?:any(?:one|body)|who(?:ever)?|those|everyone)\s+(?:who\s+)?|"
    r"(?:one|you|some|someone|people|students?)\s+(?:(?:may|might|"
    r"could)\s+)(?:\w+ly\s+)?(?:be\s+tempted\s+to\s+)?|"
    r"(?:many|some|most|other)(?:\s+(?:people|students|others))?\s+(?:(?:may|might|would)\s+)?(?:\w+ly\s+)?)"
    rf"(?:think|believe|assume|say|argue|claim|guess)s?\s+(?:that\s+)?{_ANSWER}\s+(?:is|was|(?:should|would|"
    rf"could)\s+be)\s"
    r"[^,.;!?\n]{1,80}",
    re.I,
)
_AT_FIRST = re.compile(  # "At first glance, the answer seems to be B"
    rf"\b(?:at\s+(?:a\s+)?first(?:\s+(?:glance|sight|look))?|initially)\b,?\s+{_ANSWER}\s+(?:seem|appear|look)(?:s|ed)\s"
    r"[^,.;!?\n]{1,80}",
    re.I,
)
_NOT_BEST = re.compile(  # "The second best answer is B", "the worst answer is B"
    r"\b(?:(?:second|next|third)[\s-]+best|worst|least\s+\w+)\s+(?:answer|option|choice)\s+(?:is|was|would\s+be|:)\s",
    re.I,
)
_WRONG = re.compile(  # "The wrong answer is B" denies B
    r"\b(?:an?|the|one|another)\s+(?:\w+\s+)?(?:wrong|incorrect)\s+(?:answer|option|choice)\s+(?:is|was|"
    r"would\s+be)\s+(?!not\b)",
    re.I,
)
_ASKED = re.compile(  # "Is the answer B?", "Could the answer be B?", but not with a "yes" after it
    rf"\b(?:is|was|can|could|might|may|would|should|must)\s+{_ANSWER}\s+(?:be\s+)?[^.!?\n]{{1,80}}\?(?!\W*yes\b)", re.I
)

_NOUN = r"(?:option|choice|answer|solution|result|conclusion|one|statement)s?\b(?:(?!\b(?:is|are|be)\b)[^\n:.,;]){0,40}"
_ITEM = (  # of a list of options: "(A)", "- **B**:", "1. Yes"
    r"\W{0,12}(?:\d[.)]\W{0,9})?(?:(?:option|choice)\s+)?(?:(?-i:[A-Z])(?=\s*[^\w\s'’]|\s*\n|\s+(?:is|means|says)\b)|"
    r"(?:yes|no|true|false|(?:in)?valid)\b)"
)
_HEADING = re.compile(  # "Let's analyze each option:", and any line over a list that calls no option right
    rf"\b(?:each|every|first|second|third|next|let(?:['’]s|\s+us|\s+me)(?!\s+(?:go|choose|pick|select|say)\b)|find|"
    rf"determine|identify|consider|analy[sz]e|evaluate|examine|compare|check)\s+(?:\w+\s+){{0,6}}?{_NOUN}:"
    rf"|(?:^|[.,;]\s)(?![^\n:.,;]*\b(?:correct|right|best|final|my)\b|[^\w\n]{{0,9}}answers?\W{{0,9}}:)[^\n:.,;]{{0,99}}?\b{_NOUN}:"
    rf"(?=[ \t]*\n(?P<item>{_ITEM})[^\n]*\n(?:[^\n]*\n){{0,5}}?(?!(?P=item)){_ITEM})",
    re.I | re.M,
)

_OTHER = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]"  # kana, Chinese, Hangul


def without_unstated(text: str) -> str:
    """The text with doubted answers denied ("I don't think the answer is B": "the answer is not B"), and without
    clauses that only ask for an answer or suppose one ("…"), and without the colon of a heading over options."""
    text = _HEADING.sub(lambda heading: f"{heading[0][:-1]}.", text)
    text = _WRONG.sub("the answer is not ", _HARDLY.sub("is not ", _with_denials(_IS_FALSE.sub(r"\1 not \2", text))))
    for unstated in (_SUPPOSED, _CLAIMED, _ASKED, _AT_FIRST):
        text = unstated.sub("… ", text)
    return _NOT_BEST.sub("lesser: ", text)


def _with_denials(text: str) -> str:
    """The text with claims after an odd number of negatives in their clause as plain denials: "I doubt that the answer
    is B" as "the answer is not B", "I would not choose B" as "not B"."""
    parts, end = list[str](), 0
    for found in _CLAIM.finditer(text):
        clause = _CLAUSE_ENDS.split(text[max(end, found.start() - 100) : found.start()])[-1]
        if len(NEGATIVE.findall(f"{clause}{found['by']}")) % 2:
            parts += [text[end : found.start() - len(clause)], f" {found['claim'] or ''} not "]
            end = found.end()
    return "".join([*parts, text[end:]])


def with_spaces(text: str) -> str:
    """The text with spaces around Latin capitals within other scripts, and Chinese "not", "and", "or", "choose" in
    English: "答案不是A或B。" → "答案 not A or B。"."""
    letter = r"\s*(?=\(?[A-Z](?![A-Za-z]))"
    for chinese, english in (
        ("不(?:应|会|可能)?(?:是|选)", "not"),
        ("(?:[和与及、]|或者?)", "or"),
        ("选择?", "answer is"),
    ):
        text = re.sub(chinese + letter, f" {english} ", text)
    return re.sub(rf"(?<={_OTHER})(?=\(?[A-Z](?![A-Za-z]))|(?<=\b[A-Z])(?={_OTHER})", " ", text)
