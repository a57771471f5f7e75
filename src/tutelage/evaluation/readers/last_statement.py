"""Whether a reply ends by leaving its question open: "The provided options do not include the correct answer."

The last statement counts: courtesies behind it ("Is there anything else I can help you with?") are no statement. It
leaves the question open if it says

| of | that |
|---|---|
| the options | they hold a mistake, are wrong, do not include or match the result, or that several are right |
| the question, the answer | it is ambiguous, incomplete, unclear; it depends on something |
| the information | there is not enough |
| the writer | "I cannot give, provide, say, choose … one", "I'm not sure which" |

A sentence that names an answer does not, nor one about the other options ("The other options are incorrect.").
"""

from __future__ import annotations

import re
from itertools import pairwise

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+|\n+")
_COURTESY = re.compile(
    r"\W*(?:(?:is\s+there|do\s+you\s+(?:have|need|want)|would\s+you\s+like|can\s+I\s+help|(?:please\s+)?(?:let\s+me\s+"
    r"know|feel\s+free)|(?:I\s+)?hope\s+(?:this|that|it)|(?:many\s+)?thank|(?:I(?:['’]m|\s+am)\s+)?happy\s+to|"
    r"I(?:['’]d|\s+would)\s+be\s+(?:happy|glad)|if\s+you\s+(?:have|need|can|could|would|provide)|you\s+(?:may|might|"
    r"can|could)\s+(?:want|wish|try|consult)|I\s+(?:apologi[sz]e|recommend|suggest)|sorry\s+(?:for|about)|"
    r"my\s+apologies|good\s+luck|(?:please\s+)?(?:consult|double-?check|re-?check|note\s+that\s+I(?:['’]m|\s+am)))\b"
    r"(?!.*\bbut\b)|the\s+question\s+should\b)",
    re.I,
)
_ASKS = re.compile(  # for what the question lacks, unless "if you need more help"
    r"\W*(?:please|(?:could|can)\s+you(?:\s+please)?)\s+(?:provide|clarify|specify|share|rephrase)\b(?!.*\bif\b)",
    re.I,
)
_NAMES = re.compile(  # an answer, or a way to one
    r"\([A-Z]\)|\b(?:option|choice|answer)\s+[A-Z]\b|(?<![\w'’])[B-HJ-Z](?![\w'’])|\b(?:best|closest|nearest|"
    r"most\s+likely|assum\w+|guess(?!ing)|lean\w*|however\s+small|other|others|remaining|rest|matters?|irrelevant)\b",
)
_ONE = r"(?:(?!(?:other|others|remaining|rest|these|those|incorrect|wrong|false|first|last)\b)[\w'’-]+\s+)"
_OPTIONS = rf"\b{_ONE}{{0,3}}(?:options|choices|alternatives|possible\s+answers)\b(?:\s+{_ONE}{{0,2}}?)?\s*"
_QUESTION = (
    r"\b(?:question|problem|wording|prompt|phrasing|exercise)(?:\s+(?:statement|itself|as\s+\w+|of\s+\w+\s+\w+))?"
)
_SEEMS = (
    r"(?:\s*\b(?:must|may|might|could|would|will|seems?|appears?|looks?|is|are|was|were|be|to|have|been|really|also|"
    r"all|simply|\w+ly|too|quite|rather|somewhat|a|an|bit|little|either)\b\s*)"
)
_FAULT = r"(?:mistakes?|errors?|typos?|discrepanc(?:y|ies)|inconsistenc(?:y|ies)|something\s+(?:wrong|off|missing))"
_FAULTY = (
    r"(?:incorrect|wrong|ambiguous|incomplete|unclear|vague|flawed|invalid|misleading|inconsistent|ill-?\w+|"
    r"poorly\s+\w+|not\s+(?:clear|correct|complete|specific|well\W+defined))\b"
)
_DO_NOT = r"(?:do(?:es)?|did)(?:\s*n['’]t|\s+not)\s+(?:\w+ly\s+|seem\s+to\s+|appear\s+to\s+)?"
_INFORMATION = r"(?:info(?:rmation)?|context|data|details?)\b"
_SEVERAL = (
    r"(?:(?:more\s+than|not\s+(?:just|only))\s+one|multiple|several|many|at\s+least\s+two|two|three|four|both|all)\b"
)
_RIGHT = r"(?:correct|right|valid|plausible|possible|acceptable|suitable|appropriate|defensible|apply|fit|work)\b"
_GIVE = (
    r"(?:give|provide|offer|say|tell|match|choose|pick|select|determine|answer|decide|identify|name|state|settle|find|"
    r"verify\s+which|recommend|make\s+an?\s+\w+|be\s+(?:sure|certain)|know)\b"
)
_CANNOT = (
    r"(?:can(?:\s?not|['’]t)|could(?:\s+not|n['’]t)|(?:(?:am|are|is|was|were|['’]m|['’]re)\s+)?(?:unable|not\s+able|"
    r"(?:not|im)\s?possible|difficult|hard)\s+(?:for\s+me\s+)?to|too\s+\w+\s+(?:for\s+me\s+)?to)\s+(?:\w+ly\s+)?"
)
_ANSWER = r"(?:answers?|options?|choices?|one|number|question|it|this|that|which|any|you|between|from|what)\b"

_OF_OPTIONS = re.compile(
    r"…\W*any\s+of\s+(?:the|these)\s+(?:\w+\s+)?(?:options|choices)|\b(?:no|any)\s+errors?\s+in\s+(?:the|this)\s+"
    r"translation|\bcontains?\s+no\s+errors?|\b(?:has|have)\s+no\s+(?:correct|right|valid)\s+(?:option|answer)|"
    rf"\bno\s+(?:correct|right)\s+(?:option|answer)\s+(?:is|was)\s+\w+|"
    rf"{_OPTIONS}(?:{_SEEMS}{{1,5}}{_FAULTY}|{_DO_NOT}(?:include|contain|list|match|have|offer|mention|fit|agree|"
    rf"provide|correspond)\b|{_SEEMS}{{0,3}}(?:contains?|have|has|includes?)\s+(?:\w+\s+){{0,2}}{_FAULT})"
    rf"|\b{_FAULT}\b[^.;]{{0,60}}?\b(?:in|with|between|from)\b[^.;]{{0,60}}?\b(?:options|choices|alternatives)\b"
    r"|(?:n['’]t|\bnot|\bunable\s+to|\bcannot)\s[^.;,]{0,40}?\b(?:any|one|either|among|in|listed)\b[^.;,]{0,30}?"
    r"\b(?:options|choices|alternatives|list)\b"
    rf"|\b{_SEVERAL}(?:\s+of\s+(?:the|these|them))?\s*(?:(?:(?:answer\s+)?(?:options?|choices?|answers?|alternatives?|"
    rf"two|three|four)\b\s*){{1,2}}{_SEEMS}{{0,4}}|{_SEEMS}{{1,4}}){_RIGHT}(?!\s+(?:that|to)\b)"
    rf"|\b(?:no|not\s+a)\s+(?:\w+\s+)?(?:option|choice|alternative)\s+(?:\w+ly\s+)?(?:fits|matches|works|applies|"
    rf"is\s+{_RIGHT})"
    rf"|\b(?:has|have|allows?|admits?|accepts?|there{_SEEMS}{{1,4}})\s+{_SEVERAL}\s+(?:(?:correct|right|valid|possible|"
    r"acceptable|plausible)\s+)?(?:answers?|options?\s+that)\b",
    re.I,
)
_SEVERAL_RIGHT = re.compile(
    rf"\b{_SEVERAL}(?:\s+of\s+(?:the|these))?\s+(?:options?|choices?|answers?)\s+{_SEEMS}{{0,4}}{_RIGHT}|"
    rf"\b(?:has|there{_SEEMS}{{1,4}})\s+{_SEVERAL}\s+(?:correct|right|valid)\s+answers?\b",
    re.I,
)
_OF_QUESTION = re.compile(
    rf"{_QUESTION}{_SEEMS}{{1,5}}{_FAULTY}|{_QUESTION}{_SEEMS}{{0,4}}(?:contains?|have|has|includes?)\s+"
    rf"(?:\w+\s+){{0,2}}{_FAULT}|\b{_FAULT}\b[^.;]{{0,40}}?\b(?:in|with)\s+(?:the|this|my)\s+(?:\w+\s+)?(?:question|"
    r"problem|calculation)\b"
    rf"|\b(?:answer|it|this|that)\s+(?:would\s+|will\s+|may\s+|really\s+)?depends?\s+(?:up)?on\s+(?:whether|how|which|"
    r"what|(?:the\s+|your\s+)?(?:\w+\s+)?(?:context|definition|interpretation|perspective|point\s+of\s+view)\b)"
    r"|\banswer\s+(?:would\s+|will\s+|may\s+)?depends?\s+(?:up)?on\b"
    rf"|\b(?:not|isn['’]t|n['’]t)\s+(?:\w+\s+)?(?:enough|sufficient)\s+{_INFORMATION}|\binsufficient\s+{_INFORMATION}|"
    rf"\b{_INFORMATION}[^.;]{{0,30}}?\s(?:is|are)(?:\s+\w+ly)?\s+(?:insufficient|incomplete|missing|needed|required|"
    rf"not\s+(?:enough|sufficient))\b|\b(?:none|not\s+(?:all|any))\b[^.;]{{0,30}}?\benough\s+to\s+{_GIVE}"
    rf"|\b(?:do\s+not|don['’]t)\s+have\s+(?:\w+\s+){{0,2}}{_INFORMATION}|\b(?:unclear|not\s+clear)\s+(?:which|what)\b",
    re.I,
)
_OF_WRITER = re.compile(
    rf"(?:\bI(?:['’]d)?|\bwe|\bto\s+be|\bit|\bit['’]s|\bI['’]m|\bwe['’]re|\btoo\s+\w+\s+for\s+me)\s+(?:{_CANNOT}{_GIVE}|to\s+"
    rf"{_GIVE}|(?:am\s+|are\s+)?not\s+(?:sure|certain)\s+(?:which|what|whether|about\s+the\s+answer)|(?:do\s+not|don['’]t)\s+"
    rf"(?:know|want\s+to\s+guess)|(?:am\s+|are\s+)?not\s+familiar\s+enough|(?:would\s+)?need\s+(?:to\s+(?:re-?|"
    rf"double-?)?(?:check|see)\b|more\s+{_INFORMATION}))"
    r"|\bno\s+(?:\w+\s+)?(?:answer|option|choice)\s+can\s+be\s+\w+"
    r"|\bcannot\s+be\s+(?:determined|answered|decided)\b",
    re.I,
)
_FLAT = re.compile(  # what also takes a stated answer back: it speaks of the answer as a whole
    r"\bno\s+(?:(?:single|correct|right|definit(?:iv)?e)\s+)*answer\s+(?:can\s+be|is|was)\s+(?:given|selected|chosen|"
    r"listed|provided|possible)\b|"
    rf"(?:\bI|\bwe|\bit\s+is|\bit['’]s|\bI['’]m|\bwe['’]re)\s+{_CANNOT}(?:give|provide|offer|choose|pick|select|"
    rf"determine|answer|decide|identify|find|match|make\s+an?\s+(?:\w+\s+)?choice|"
    rf"(?:say|tell|verify)\s+which)\b(?:\W+\w+){{0,5}}?\W+{_ANSWER}"
    rf"|{_OPTIONS}{_DO_NOT}(?:include|contain|list|have|offer|provide)\s+(?:the|an?)\s+(?:correct|right)\b"
    rf"|{_SEVERAL_RIGHT.pattern}",
    re.I,
)
_SOFT = re.compile(r"\b(?:sure|certain\w*|confiden\w+|exact(?:ly)?\s+(?:value|date)|fully)\b", re.I)
_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|answer|so|must\s+be|option|choice)\b", re.I)


def left_open_at(text: str, of_options: bool = True) -> int:
    """Where the last statement begins if it leaves the question open, or the one before it if the last concludes
    nothing; −1 if neither does. `of_options`: False where the question has none, as one for a number."""
    for number, (start, sentence) in enumerate(reversed(_last_sentences(text)[-2:])):
        if _NAMES.search(sentence):
            break
        of_them = number == 0 and ((of_options and _OF_OPTIONS.search(sentence)) or _ASKS.match(sentence))
        if of_them or _OF_QUESTION.search(sentence) or _OF_WRITER.search(sentence):
            return start
        if _CONCLUDES.search(sentence):
            break
    return -1


def taken_back_at(text: str) -> int:
    """Where the last statement begins if it says that no answer, or more than one, can be given, which takes a stated
    one back; else −1."""
    sentences = _last_sentences(text, asks=False)
    if not sentences:
        return -1
    start, sentence = sentences[-1]
    flat = _FLAT.search(sentence) and not _NAMES.search(sentence) and not _SOFT.search(sentence)
    return start if flat else -1


def last_sentence(text: str) -> str:
    """The last sentence that is no courtesy."""
    sentences = _last_sentences(text)
    return sentences[-1][1] if sentences else ""


def _last_sentences(text: str, asks: bool = True) -> list[tuple[int, str]]:
    """The last sentences of a text, without courtesies at the end, and where they begin. `asks`: keep requests."""
    offset = max(0, len(text) - 1500)
    places = [0, *(match.end() for match in _SENTENCE_END.finditer(text, offset)), len(text)]
    found = [(max(a, offset), text[max(a, offset) : b]) for a, b in pairwise(places)]
    found = [one for one in found if re.search(r"\w", one[1])][-8:]
    kept = found
    while len(kept) > 1 and (_COURTESY.match(kept[-1][1]) or (not asks and _ASKS.match(kept[-1][1]))):
        kept.pop()
    return kept
