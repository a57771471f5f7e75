"""Statements that choose no answer: "none of the above", "it cannot be determined", "neither of them", "both".

Such a statement is the reply's answer as much as a letter is, and it is wrong unless it is one of the options: what was
said before it does not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tutelage.evaluation.readers.last_statement import left_open_at, taken_back_at

_CANNOT = (
    r"(?:can(?:\s?not|['’]t)|could\s*(?:n['’]t|\s+not)|(?:is|are)\s*(?:n['’]t|\s+not)\s+possible\s+to|"
    r"(?:unable|not\s+able)\s+to|(?:refuse|decline)\s+to|(?:no|any)\s+way\s+(?:to|of))"
)
_BE_SAID = (
    r"(?:be\s+)?(?:determin|decid|know|answer|tell|told|said|say|infer|deduc|conclud|choos|chosen|identif|establish|"
    r"select|pick|solv)\w*"
)
_NO_GROUNDS = (  # "lacks the information to decide", "does not say which one", "the value is not among the options"
    r"(?:(?:(?:do(?:es)?|did|is|are|was)(?:\s*n['’]t|\s+not)|cannot|lacks?|lacking|without|insufficient|inadequate|"
    r"too\s+little)\b[^.,;!?\n]{0,60}?\bto\s+(?:be\s+able\s+to\s+)?"
    r"(?:answer|choose|conclude|decide|determine|know|pick|say|select|solve|tell)\b"
    r"|do(?:es)?(?:\s*n['’]t|\s+not)\s+(?:say|state|specify|tell|mention|indicate|reveal)\s+(?:us\s+)?which\b"
    r"|\b(?:answer|value|result|number|option)\s+(?:(?:is|was)(?:\s*n['’]t|\s+not)\s+(?:among|in|one\s+of|any\s+of)|"
    r"do(?:es)?(?:\s*n['’]t|\s+not)\s+(?:appear|occur|match|equal|fit)\s+(?:in\b|among\b|any\b))[^.,;!?\n]{0,20}?"
    r"(?:options?|choices?|list(?:ed)?|answers?)\b)"
)
_UNKNOWN = (
    r"(?:unclear|unknown|undetermined|indetermina\w+|undecid\w+|uncertain|ambiguous|unanswerable|inconclusive|"
    r"not\s+(?:clear|known(?!\s+to\b)|given|certain|sure|determin\w+|decidable|possible)|maybe|undefined|"
    r"perhaps(?:\s+neither|\s*(?=[.!\n]|$))|"
    r"impossible\s+to\s+\w+|(?:insufficient|not\s+enough)\s+(?:info(?:rmation)?|data|context)|"
    r"unsure|(?:a\s+)?(?:tie|toss-?up)|hard\s+to\s+(?:say|tell|know)|depends?|missing|absent|not\s+available)\b"
)
_NOT_LISTED = (
    r"(?:not|isn['’]t)\s+(?:there|here|listed|provided|given|offered|present|among|included|"
    r"in\s+the\s+(?:list|options|choices)|(?:one|any)\s+of\s+(?:these|them|(?:the\s+)?"
    r"(?:options|choices|answers|above|given|listed)))\b"
)
_GIVEN = r"(?:(?:above|given|listed|provided|available|answer|offered|two|three|four|five)\s+)*"
_NONE = (  # not "none of the other options"
    r"(?:(?:neither|none|all|any|either|zero|not\s+(?:a\s+single\s+)?one)\s+of\s+(?:[(⁂]|(?:them|these|those|"
    rf"(?:(?:the|these|those)\s+)?{_GIVEN}(?:options?|choices?|answers?|statements?|sentences?|above|two|three|four|"
    r"five|ten))\b)|neither\b|none\b|either\b(?=\W*$|\s+(?:one|could|would|might|may|is|works?)\b))"
    r"(?!\s*,?\s*(?:other|else|but|except|besides|apart|of\b|\w+\s+than)\b)"
)
_NO_RIGHT_ONE = (
    r"(?:no|not\s+an?|isn['’]t\s+an?)\s+(?:(?:single|clear|definite|definitive|unique)\s+)?(?:correct|right|valid|"
    r"suitable|possible|definite|definitive|clear)?\s*(?:answer|option|choice)s?\b"
)
_ALL_ALIKE = (  # "each of them is wrong", "they are all correct"
    rf"(?!all\s+right)(?:all|each|every)(?:\s+(?:of\s+)?(?:them|(?:(?:the|these|those)\s+)?{_GIVEN}"
    r"(?:options?|choices?|answers?)))?(?:\s+(?:is|are|seems?|looks?))?\s+(?:\w+ly\s+)?"
    r"(?:wrong|incorrect|false|invalid|correct|right|true|valid)\b(?!\s*,?\s*(?:but|except|besides)\b)"
)
_NONE_ELSEWHERE = (  # "none of them" in other languages, but not "none of the others"
    r"(?:keine?[rs]?\s+(?:der|dieser|von)|ningun[oa]\s+de|aucune?\s+des?|nessun[oa]\s+dell[ei])\b"
    r"(?!\s+(?:las\s+|los\s+)?(?:ander|otr|autr|altr))|以上(?:都|皆)(?:不|非|错)|无法(?:确定|判断|回答)"
)
_UNWILLING = (  # "I won't choose", "I have no idea", "I choose not to answer", "I can't help with that"
    r"(?:(?:will\s+not|won['’]t|['’]d\s+rather\s+not|would\s+rather\s+not|do(?:\s+not|n['’]t)\s+want\s+to)\s+"
    r"(?:answer|choose|say|decide|pick|guess)|(?:choose|prefer)\s+not\s+to|(?:have\s+)?no\s+idea|give\s+up|"
    r"(?:pass|skip)\W*$|do(?:\s+not|n['’]t)\s+(?:know\b(?!\s+(?:why|how|what))|have\s+enough\s+(?:info|data))|"
    r"can(?:not|['’]t)\s+help\s+(?:you\s+)?with|(?:(?:choose|select|pick)\s+)?nothing\b(?!\s+else))"
)

# At the beginning of what follows "the answer is", and of the last sentence.
_REFUSED = re.compile(
    rf"[\s\"'“‘(\[*]*(?:that\s+)?(?:there(?:['’]s|\s+is)?\s+|(?:it|this|they|that|(?:the|this)\s+(?:question|problem|"
    rf"sentence|pronoun|reference|referent|antecedent|word)(?:\s+[\"“'][^\"”'\n]{{1,20}}[\"”'])?)(?:['’](?:s|re)|"
    rf"\s+(?:is|are))?\s+|"
    rf"we\s+|I(?:['’]m|\s+am|(?=['’]d))?\s*)?"
    rf"(?:{_CANNOT}\s+{_BE_SAID}|{_UNKNOWN}|{_NOT_LISTED}|{_NONE}|{_NONE_ELSEWHERE}|{_NO_RIGHT_ONE}|"
    rf"{_ALL_ALIKE}|{_UNWILLING}|both\b|N/A\b|does\s*(?:n['’]t|\s+not)\s+exist|not\s+enough\s+information|"
    r"not\s+(?:only|just|merely)\b|(?:all|everything)\s*(?:[.,;!\n]|above|$)|more\s+information\s+is)",
    re.I,
)
_SOME = (  # "both", "neither of them", "none of the options", "either one", "both (A) and (B)" (⁂)
    r"(?:both|neither|none|all|any|either|each|every|nothing|(?:all\s+|any\s+)?(?:two|three|four|five)|not\s+(?:a\s+"
    rf"single\s+)?one)(?:\s+of\s+(?:[(⁂]|(?:them|these|those|(?:(?:the|these|those)\s+)?{_GIVEN}(?:options?|choices?|"
    r"answers?|above|two|three|four|five|ten))\b)|\s+(?:(?:the|these|those)\s+)?(?:ones?|options?|choices?|answers?|"
    rf"alternatives?|above)\b)?\s*(?:[\s(\[]*⁂[)\]]*)?"
)
FITS = (  # what is said of options as answers
    r"(?:\s*(?:(?:all|both|also|equally)\s+)*(?:(?:(?:is|are|was|were|seems?|looks?|sounds?|"
    r"(?:could|can|may|might|would|must|should)\s+(?:also\s+)?be)(?:n['’]t|\s+not)?\s+)?(?:(?:all|also|both|just\s+as|"
    r"as|really|quite|the|an?|very|\w+ly)\s+)*(?:correct|right|wrong|incorrect|possible|plausible|acceptable|suitable|"
    r"appropriate|reasonable|satisfactory|valid|good|fine|best)|fits?|works?|match(?:es)?|appl(?:y|ies)|"
    r"qualif(?:y|ies)|"
    r"(?:could|can|may|might|would|will|do(?:es)?)(?:n['’]t|\s+not)?\s+(?:also\s+)?(?:fit|work|apply|do|match|qualify))"
    r"(?:\s+(?:answer|option|choice)s?)?)"
)
_CLOSES = (  # of a sentence that says no more
    r"\s*(?:\W*\Z|[;,]|(?:here|too|as\s+well|at\s+all|to\s+me|because|since|as|in\s+(?:this|my)|though|either|I\s+"
    r"think|given|among|listed|offered|to\s+th(?:is|e)\s+question)\b)"
)
_NONE_OFFERED = (  # "none of the processes listed fixes nitrogen", "the process described isn't among the options"
    r"(?:(?:none|neither|not\s+one)\s+of\s+(?:the|these|those)\s+(?:(?:(?!others?\b|remaining\b)\w+\s+){1,2}(?:above|"
    r"listed|given|offered|provided)|"
    rf"{_GIVEN}(?:options|choices|answers))\b(?!\s*,?\s*(?:other|else|but|except|besides)\b)|"
    r"(?:the|this|that|my|its)\s+(?:\w+\s+){1,5}?(?:(?:is|was)(?:n['’]t|\s+not))\s+(?:listed|offered|among|(?:one|"
    r"any)\s+of|"
    r"an?\s+(?:option|choice))\b)"
)
_CHOOSES_NONE = re.compile(  # a sentence about the options, as which "both glasses", "it depends on" are not
    r"(?:(?:they|these|those|we|I|it|this|that|there|(?:the|this)\s+(?:answer|question))"
    rf"(?:['’](?:s|re|m)|\s+(?:is|are|am|(?:could|may|might)\s+be))?\s*)?"
    rf"(?:{_CANNOT}\s+{_BE_SAID}|{_UNWILLING}(?<!nothing)|{_NONE_ELSEWHERE}|N/A\b|{_SOME}{FITS}?{_CLOSES}|"
    rf"(?:{_UNKNOWN}|(?:it\s+)?depends|{_NOT_LISTED}|{_NO_RIGHT_ONE}|everything|"
    r"does\s*(?:n['’]t|\s+not)\s+exist)"
    rf"(?:{FITS}|\s+(?:is|are)\s+(?:offered|listed|given|available|provided|there))?"
    rf"(?:{_CLOSES}|\s+(?:wh\w+|how|if)\b)|{_NONE_OFFERED}|more\s+information\s+is\s+(?:needed|required|necessary))",
    re.I,
)
_CLAUSE = re.compile(  # ", so neither is right", "; (B) may fit, but none does", "Honestly, it could be any of them"
    r"[,;]\s+(?:and\s+)?(?:and|so|thus|hence|therefore|but|yet|however)\b,?\s+|\A\s*\w+ly,\s+", re.I
)
_UNDECIDED = re.compile(  # of those, the ones that say that no answer can be given at all
    rf"\b(?:{_CANNOT}\s+{_BE_SAID}|{_NO_GROUNDS}|unanswerable|no\s+way\s+(?:to\s+be|of\s+being)\s+(?:sure|certain)|"
    r"has\s+no\s+(?:correct\s+|right\s+|valid\s+)?(?:answer|option|choice)\b|"
    r"(?:insufficient|not\s+enough|need\s+more)\s+(?:info(?:rmation)?|data|context)|"
    r"impossible\s+to\s+(?:determine|decide|say|tell|know|answer)|do(?:\s+not|n['’]t)\s+know\b(?!\s+(?:why|how|what)))",
    re.I,
)
_NOT_KNOWN = re.compile(  # "I cannot determine the answer", "not enough information to decide which option is right"
    rf"\b(?:{_CANNOT}\s+{_BE_SAID}|(?:insufficient|not\s+enough)\s+(?:info(?:rmation)?|data|context)\s+(?:\w+\s+)?to\s+"
    r"\w+)\s+(?:(?:the|this|an?)\s+(?:\w+\s+)?(?:answer|question|option)\b|which\s+(?:option|choice|answer)\b)",
    re.I,
)
_YET_FOUND = re.compile(
    r"\b(?:so|thus|hence|therefore|must|works?|fits?|best|likely|lean|guess|only\s+(?:\(?[A-Z]\b|option))\b", re.I
)
_SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*")
_OPENING = re.compile(
    r"\W*(?:(?:so|thus|therefore|hence|in\s+conclusion|finally|but|and|however|I\s+(?:think|believe|conclude)|"
    r"it\s+follows|this\s+means)\b,?\s*)*",
    re.I,
)
_STRONG = re.compile(  # a whole sentence, so that it may follow a statement of an answer and take it back
    rf"\bnone\s+of\s+(?:the|these|those)\s+{_GIVEN}(?:options?|choices?|answers?|above)(?:\s*…[\ue000-\ue019]*\)?)?\s+"
    r"(?:(?:is|are|seems?|looks?)\s+(?:\w+ly\s+)?(?:correct|right|true|valid|suitable)|fits?|match(?:es)?|works?|"
    r"appl(?:y|ies))\b"
    r"|\bthere\s+is\s+no\s+(?:correct|right|valid)\s+(?:answer|option|choice)\b(?!\s+(?:other|but|besides|except))"
    r"|\bno\s+(?:option|choice)\s+is\s+(?:\w+ly\s+)?(?:correct|right)\s*[.!;\n]"
    r"|\bquestion\s+has\s+no\s+(?:correct|right|valid)\s+(?:answer|option|choice)\b"
    # "neither C nor any of the other choices fits", "C doesn't fit, and none of the others do"
    r"|…[\ue000-\ue019][^.;!?\n]{0,60}?\b(?:nor|none\s+of|neither\s+do|nor\s+do)\s+(?:(?:is|are|do|"
    r"does)\s+)?(?:any\s+of\s+|any\s+)?"
    r"(?:the\s+)?(?:others?|rest|remaining)\b(?!\s*,?\s*(?:but|except|besides)\b)[^.;!?\n]{0,40}",
    re.I,
)
_CLOSEST = re.compile(
    r"[^.\n]*\b(?:closest|nearest|best|most\s+(?:likely|plausible|reasonable|appropriate|accurate|suitable))\b[^\n]*",
    re.I,
)
_WHOLE = re.compile(  # a sentence that is a refusal and no more
    rf"{_OPENING.pattern}(?:(?:it|this|that|the\s+(?:answer|question))\s+)?(?:(?:is|are)\s+)?(?:{_CANNOT}\s+{_BE_SAID}"
    rf"(?:\s+(?:this|it|one|the\s+question|(?:from|between|among)\s+(?:this|them|these|the\s+\w+)))?|"
    rf"{_NONE}(?:\s+(?:is|are|fits?|match(?:es)?|works?|"
    rf"appl(?:y|ies)))?(?:\s+(?:correct|right|true))?|(?:there(?:\s+is|['’]s)?\s+)?{_NO_RIGHT_ONE}|"
    r"I\s+do(?:\s+not|n['’]t)\s+know|unanswerable|undecidable|ambiguous|unknown|(?:I\s+have\s+)?no\s+idea)\W*\Z",
    re.I,
)
ANSWER_CANNOT = re.compile(  # "the answer cannot be determined", "the answer does not exist": no "is" before it
    rf"\banswer(?:\s+(?:to|for)\s[^\n.:=]{{1,80}}?)?\s+"
    rf"(?={_CANNOT}\s+{_BE_SAID}|does\s*(?:n['’]t|\s+not)\s+exist|isn['’]t\s)",
    re.I,
)

_NONE_OPTION = re.compile(  # of an option in lower case
    r"(?:[a-j][.)]\s+)?(?:none|neither|no(?=\s+(?:\w+\s+)?(?:answer|option|choice)s?\b))"
    r"(?:\W+(?:nor|of|the|these|those|them|above|below|given|listed|offered|other|options?|choices?|answers?|"
    r"statements?|is|are|correct|right|true|valid|appl(?:y|ies)|mentioned|[a-h]|i{1,3}|iv|v|\d))*\W*",
    re.I,
)
_IS_UNKNOWN = re.compile(
    rf"\b(?:{_CANNOT}\s+{_BE_SAID}|unclear|unknown|not\s+(?:clear|known)|undetermined|indetermina\w+|undecid\w+|"
    r"ambiguous|unanswerable|inconclusive|impossible\s+to\s+\w+|(?:insufficient|not\s+enough|"
    r"more)\s+(?:info(?:rmation)?|data|context))\b",
    re.I,
)
_UNKNOWN_OPTION = re.compile(  # "It cannot be determined from the text", "Not enough information to tell", "Ambiguous"
    rf"(?:[a-j][.)]\s+)?(?:(?:it|this|that|the|answer|question|is|are|there(?:['’]s)?|need)\s+)*{_IS_UNKNOWN.pattern}"
    r"(?:\W+(?:the|this|it|answer|question|information|data|given|provided|available|alone|needed|required|is|"
    r"to\s+\w+|(?:from|with|without|by|for|based\s+on)(?:\s+\w+){1,4}))*\W*",
    re.I,
)
_LED_BY = (  # before a refusal in its sentence: "So the answer is", "I think that it is"
    rf"{_OPENING.pattern}[\s\"'“‘(\[*]*(?:(?:that|(?:it|this|the\s+(?:\w+\s+)?(?:answer|option|choice))\s+is|"
    rf"there\s+is|it['’]s)\s+)*"
)
_NAMED = re.compile(r"[\s\"'“‘]*(?:the\s+)?([A-Z]\w{2,}(?:\s+[A-Z]\w+){0,2})[\s\"'”’]*(?:[.;!\n]|$)")  # "Madrid."


def refuses(tail: str) -> bool:
    """Whether a text, such as what follows "the answer is", begins by choosing none, or all, of the answers."""
    return _REFUSED.match(tail) is not None


def refused_flatly(text: str) -> int:
    """Where the last sentence like "none of the options is correct" ends; −1 where there is none."""
    return max((match.end() for match in _STRONG.finditer(text)), default=-1)


def sentence_before(text: str, end: int) -> str:
    """The sentence of a text that ends at a place, or holds it."""
    sentences = [one for one in _SENTENCE.finditer(text[: end + 200]) if one.start() < end]
    return sentences[-1][0] if sentences else ""


def closest(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The option that a text calls the closest after it refused all ("None is right. (C) is closest.")."""
    near = _CLOSEST.search(text)
    if near is None:
        return None
    sure = re.sub("[AI]", "", letters)  # of all capitals those that are no words
    named = re.findall(
        rf"\b(?i:option|choice)\s+\(?([{letters}]|[{letters.lower()}])\b|([{letters}]|[{letters.lower()}])\)"
        rf"|(?<![\w'’])([{sure}])(?!\w)",
        near[0],
    )
    found = {one.upper() for group in named for one in group if one}
    found = found or {a for a, option in zip(letters, options, strict=False) if option and option in near[0].lower()}
    return found.pop() if len(found) == 1 else None


def takes_back(text: str) -> int:
    """Where the last sentence begins if it is a refusal of all answers and nothing else ("None of these."), or a short
    one on its own line, and so takes back what was stated before it; else −1."""
    sentences = list(_SENTENCE.finditer(text[-2000:]))
    start = len(text) - min(2000, len(text)) + (sentences[-1].start() if sentences else 0)
    own_line = text[:start].rstrip(" \t").endswith("\n") and len(text[start:].split()) < 10
    taken = sentences and (
        _WHOLE.match(sentences[-1][0]) or (own_line and "…" not in text[start:] and chooses_none(sentences[-1][0]))
    )
    return max(start if taken else -1, taken_back_at(text))


def chooses_none(text: str) -> bool:
    """Whether the first sentence of a text chooses no answer, in so many words: what is not about the options ("both
    glasses", "neither axis has an offset", "it depends on the hills") explains the answer that was stated before it."""
    sentence = _SENTENCE.search(text)
    if sentence is None or text[sentence.end() :].startswith("?"):
        return False
    clauses = (sentence[0], *_CLAUSE.split(sentence[0])[1:])
    openings = (_OPENING.match(clause) for clause in clauses)
    starts = [opening.end() if opening else 0 for opening in openings]
    return _UNDECIDED.search(sentence[0]) is not None or any(map(_CHOOSES_NONE.match, clauses, starts))


def left_undecided(text: str) -> bool:
    """Whether a text begins by choosing no answer, or ends by saying that none can be given."""
    return chooses_none(text) or last_refusal(text, undecided_only=True) >= 0


def gives_up(text: str) -> bool:
    """Whether the last sentence of a text, or its last clause, chooses no answer: ", so I can't pick one"."""
    sentences = _SENTENCE.findall(text[-2000:])
    if not sentences:
        return False
    clause = _CLAUSE.split(sentences[-1])[-1] if len(sentences) == 1 else sentences[-1]
    return clause != text and chooses_none(clause)


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
    if not undecided_only and (refuses(rest) or chooses_none(last[0])):
        return start
    return left_open_at(text, of_options=False)


def no_answer_known(text: str, start: int) -> int:
    """Where the last sentence, from `start` on, begins that says, in so many words, that the answer cannot be given; −1
    if there is none, or if one is reasoned for after it."""
    found = [match.start() for match in _NOT_KNOWN.finditer(text, start)]
    if not found or _YET_FOUND.search(text, found[-1]):
        return -1
    sentence = re.search(r"[^.!?\n]*\Z", text[start : found[-1]])
    return start + (sentence.start() if sentence else 0)


def same_refusal(option: str, tail: str) -> bool:
    """Whether an option, as a whole, chooses no answer in the way that a text's first sentence does: "None of these"
    for "none of the above", "It cannot be determined" for "the answer is unknown".

    "I cannot determine it" says what the writer knows, and is no option.
    """
    sentence = _SENTENCE.search(tail)
    if sentence is None:
        return False
    said = [sentence[0], *_CLAUSE.split(sentence[0])[1:]]
    if _NONE_OPTION.fullmatch(option):
        return any(
            re.match(rf"{_LED_BY}(?!all|any|either|zero)(?:{_NONE}|{_NO_RIGHT_ONE}|{_NOT_LISTED})", one, re.I)
            for one in said
        )
    unknown = _UNKNOWN_OPTION.fullmatch(option) and _IS_UNKNOWN.search(sentence[0])
    if not unknown or re.search(r"\bI\b(?!\s+(?:think|believe|conclude)\b)", sentence[0]):
        return False
    return unknown[0].lower() != "ambiguous" or "ambiguous" in option.lower()


def names_no_option(tail: str, letters: str, options: Sequence[str]) -> bool:
    """Whether a text begins with a name that is in no option, as a statement of its own: "Madrid."."""
    match = _NAMED.match(tail)
    if match is None or not options or re.search(rf"\([{letters}]\)", tail):
        return False
    name = match[1].lower()
    return not any(set(name.split()) & set(option.split()) or name in option for option in options)
