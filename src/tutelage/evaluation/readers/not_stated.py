"""Clauses that name an answer without stating it: doubted ones are denials; asked and supposed ones state nothing."""

from __future__ import annotations

import re

_NOT = r"(?:\s*n['’]t|\s+not)"
_ANSWER = r"(?:the|my)\s+(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)"
_DOUBTED = re.compile(
    r"\b(?:(?:I|we)\s+(?:"  # "I don't think that", "I cannot say", "we doubt that"
    rf"(?:(?:do|did|would|ca|could){_NOT}|cannot|can\s+not)\s+(?:\w+ly\s+)?(?:think|believe|say|conclude|claim|agree|suppose)"
    r"|(?:\w+ly\s+)?doubt)"
    r"|(?:it|this|that)(?:"  # "it is unlikely that", "this doesn't mean that"
    rf"(?:['’]s|\s+is|\s+seems)\s+(?:\w+ly\s+|very\s+|quite\s+)?(?:unlikely|doubtful|false|untrue|impossible|"
    rf"not\s+(?:true|the\s+case|certain|likely))|\s+does{_NOT}\s+(?:mean|follow)))"
    rf"\s+(?:that\s+)?((?:(?:the|my|this)\s+(?:\w+\s+)?\w+|it|this|that)(?:['’]s|\s+(?:is|was|(?:should|could|can)\s+be)))"
    r"\s+(?!not\b)",
    re.I,
)
_SUPPOSED = re.compile(  # "If the answer is B, …", "whether the answer is B"
    rf"\b(?:if|whether|suppos(?:e|ing)|assum(?:e|ing)|unless)\s+(?:that\s+)?(?:{_ANSWER}|(?:the|this)\s+argument)\s+"
    r"(?:is|was|were|(?:should|would|could)\s+be)\s[^,.;!?\n]{1,80}",
    re.I,
)
_CLAIMED = re.compile(  # "One might think that the answer is B", "Many people say the answer is B"
    r"\b(?:(?:one|you|some|someone|people|students?)\s+(?:(?:may|might|could)\s+)(?:\w+ly\s+)?(?:be\s+tempted\s+to\s+)?|"
    r"(?:many|some|most|other)(?:\s+(?:people|students|others))?\s+(?:(?:may|might|would)\s+)?(?:\w+ly\s+)?)"
    rf"(?:think|believe|assume|say|argue|claim|guess)\s+(?:that\s+)?{_ANSWER}\s+(?:is|was|(?:should|would|could)\s+be)\s"
    r"[^,.;!?\n]{1,80}",
    re.I,
)
_NOT_BEST = re.compile(  # "The second best answer is B", "the worst answer is B"
    r"\b(?:(?:second|next|third)[\s-]+best|worst|least\s+\w+)\s+(?:answer|option|choice)\s+(?:is|was|would\s+be|:)\s",
    re.I,
)
_WRONG = re.compile(  # "The wrong answer is B" denies B
    r"\b(?:an?|the|one|another)\s+(?:\w+\s+)?(?:wrong|incorrect)\s+(?:answer|option|choice)\s+(?:is|was|would\s+be)\s+(?!not\b)",
    re.I,
)
_ASKED = re.compile(  # "Is the answer B?", "Could the answer be B?", but not with a "yes" after it
    rf"\b(?:is|was|can|could|might|may|would|should|must)\s+{_ANSWER}\s+(?:be\s+)?[^.!?\n]{{1,80}}\?(?!\W*yes\b)", re.I
)

_OTHER = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]"  # kana, Chinese, Hangul


def without_unstated(text: str) -> str:
    """The text with doubted answers denied ("I don't think the answer is B": "the answer is not B"), and without
    clauses that only ask for an answer or suppose one ("…")."""
    text = _WRONG.sub("the answer is not ", _DOUBTED.sub(r"\1 not ", text))
    for unstated in (_SUPPOSED, _CLAIMED, _ASKED):
        text = unstated.sub("… ", text)
    return _NOT_BEST.sub("lesser: ", text)


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
