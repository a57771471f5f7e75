"""Cues: an answer follows them. Those of `STATED` state it; those of `CHOSEN` count where none of `STATED` does.

They have no adverbs: readers look for them in the text that `without_adverbs` gives.
"""

from __future__ import annotations

import re

_VERB = r"(?:is|was|are|were|be|must|should|would|will|(?:is|was|are)n['’]t|seems?|has\s+to)"
_SURE = (  # says how sure a statement is, or that it corrects another: "actually", "in fact", "definitely"
    r"(?:in\s+(?:fact|reality|truth|the\s+end)|of\s+course|after\s+all|as\s+it\s+turns\s+out|no\s+doubt|"
    r"without\s+(?:a\s+)?doubt|instead|still|indeed|therefore|thus|then|hence|however|now|rather|"
    r"(?:most|very|almost|quite)\s+likely(?!\s+(?:to|that)\b)|(?:(?:most|very|almost|quite)\s+)?"
    r"(?:actual|real|tru|definite|certain|ultimate|clear|simp|probab|sure|obvious|undoubted|evident|apparent|presumab|"
    r"unfortunate|undeniab|unquestionab|indisputab|final|consequent|according)ly)\b"
)
_LIMITS = r"(?:on|equal|part|partial|hard|scarce|rare|bare|possib|potential|conceivab|arguab|seeming|supposed|near)ly"
_ADVERB = (  # these, and any other word in -ly before a letter, a number, another answer or a refusal
    rf"(?:{_SURE}|(?!{_LIMITS})(?:(?:most|very|almost|quite|more)\s+)?(?-i:[a-z]{{3,}}ly)(?=\s+(?:(?:be|both|either|not|"
    r"none|neither|un\w+|option|choice|the|an?|(?i:yes|no|true|false|(?:in)?valid))\b|[(\[]?[A-Z]\b|[-−$]?\d)))(?!-)"
)
_BESIDE_VERB = re.compile(  # "is, in fact, B", "should most definitely be B"; "the answer therefore is B"
    rf"(?<!\w)(?:(?P<verb>{_VERB}|(?:it|that|this)['’]s)(?:,?\s+{_ADVERB}){{1,2}}"
    r"(?=,?\s*(?:\([A-Z0-9]|[^\s,.;!?()]))(?:,(?=\s))?"
    rf"|(?P<subject>answer|option|choice|one|it|this|that)(?:,?\s+{_SURE},?){{1,2}}(?=\s+{_VERB}\b))",
    re.I,
)
_CORRECTED = re.compile(  # "the total is actually 11", "I'd now choose B" correct what was stated before
    r"\b(?:I|we)(?:['’]d|\s+would)?\s+(?:now|actually|instead)\s+(?:choose|pick|select|go\s+with|say)\s+|\b(?:the|my|"
    r"our)\s+(?:\w+\s+){0,2}?(?:total|sum|count|number|value|amount|result|outcome|product|expression|"
    r"argument|conclusion)(?:\s+(?:of|for)\s[^\n.,;:]{1,40}?)?\s+(?:is|should|must)\s+(?:be\s+)?"
    r"(?:actually|in\s+fact|really|instead)(?:\s+be)?\s+(?=(?:[-−$]?\d[\d,.]*|\w+)(?:\s+[a-z]+){0,2}\s*(?:[.;!\n]|$))",
    re.I,
)
IS = (  # "is", "would be", "turns out to be", "can only be"
    r"(?:is|was|are|were|becomes|remains|(?:would|should|must|will|(?:can|could)\s+only|(?:has(?:\s+got)?|ought|"
    r"turns\s+out|seems|appears)\s+to)\s+be)\b"
)
_IS = (  # "is", "is that", "is perhaps", ":", "="
    rf"(?:\s+{IS}(?:\s+that\b(?!'))?"
    r"(?:\s+(?:perhaps|maybe|likely|possibly|arguably)(?=\s+(?:[(\[]?[A-Z]\b|[-−$]?\d)))?\s*[:=]?"
    r"|[\"']?\s*[:=])\s*"
)
_OF = r"(?:\s+(?:to|for|of|in|among)\s[^\n.:=]{1,80}?|,\s[^,\n]{1,30},)?"  # "to the question", ", then,"

STATED = re.compile(
    "|".join(
        (
            rf"\banswers?{_OF}{_IS}",  # "The answer to the question is B", "Answer: B"
            r"\b(?:chang|revis|updat|switch)(?:e[sd]?|ed|ing)\s+(?:(?:my|the)\s+(?:\w+\s+)?(?:answer|choice)|(?:it|that)"
            r"(?=\s+to\s+(?:option\s+)?\(?(?-i:[A-Z])\b))\s+to\s+",  # "I changed my answer to B"
            r"\banswer\s+(?=\([A-Z]\))",  # "answer (B)"
            r"\bmakes?\s+(?:the|my)\s+(?:\w+\s+)?answer\s+",  # "That makes the answer B"
            r"\bfinal\s+answer\s*[-–—\n]\s*",  # "Final answer - B"
            r"^[^\w\n]{0,9}answer\s*\n\s*",  # "### Answer\nB"
            r"^####\s*(?=[-−]?\d[\d,.]*(?!\d*[.)]\s+\w))",  # "#### 12" of GSM8K, not "#### 1. Apples"
            rf"\b(?:correct|right|best|final)\s+(?:option|choice|letter|one)s?{_OF}{_IS}",  # "the best choice is B"
            r"(?:答案|正确的?选项)\s*(?:应该?|应当|就)?\s*(?:是|为|选|:)[\s:]*",
        )
    ),
    re.I | re.M,
)
CHOSEN = re.compile(
    "|".join(
        (
            rf"\b(?:option|choice|solution|result|conclusion|letter|one|statement){_OF}{_IS}",  # "the result is 7"
            r"\b(?:I|we)(?:'d|'ll|\s+would|\s+will)?"  # "I choose B", "I'd go with B", "I meant B"
            r"\s+(?:choose|chose|pick|picked|select|selected|go\s+with|say|meant?)\s+",
            r"\b(?:typical|average|ordinary|reasonable|most)\s+(?:person|people|observers?)\s+would\s+(?:\w+ly\s+)?"
            r"(?:answer|say|respond)\s*:?\s*(?=[\"'“‘]*(?:(?:yes|no|true|false)\b(?!\s+\w)|(?-i:\(?[A-Z]\)?)(?!\w)))",
            r"\bgo(?:ing)?\s+with\s+",  # "going with B"
            r"\b(?:of|among)\s+(?:these|those|them|the\s+(?:\w+\s+)?(?:options|choices|answers))(?:\s+\w+)?,\s+only\s+"
            r"(?=(?:option\s+)?\(?(?-i:[A-Z])\b)",  # "Of these, only B is regressive"
            r"\b(?:therefore|thus|hence|so),?\s+(?=\(?[A-Z]\)?\s*(?:[.!]|$))",  # "Therefore B."
        )
    ),
    re.I,
)


def without_adverbs(text: str) -> str:
    """The text without adverbs, at most two beside a verb, that say how sure a statement is or that it corrects one:
    "the answer is actually B" → "the answer is B". "The total is actually 11", which corrects, → "the answer is 11".

    Not taken off: what limits a statement ("only", "equally", "possibly", "hardly").
    """
    text = _CORRECTED.sub("the answer is ", text)
    return _BESIDE_VERB.sub(lambda found: found["verb"] or found["subject"], text)


def answer_phrase(reply: str, any_case: bool = False) -> str | None:
    """What follows the last "the answer is", without spaces around it and a full stop; None where there is none.

    This is BBH's official reading, whose cue is in lower case; `any_case` also takes "The answer is".
    """
    cues = list(re.finditer("the answer is", reply, re.I if any_case else 0))
    return reply[cues[-1].end() :].strip().removesuffix(".").strip() if cues else None
