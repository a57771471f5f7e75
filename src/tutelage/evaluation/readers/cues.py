"""Cues: an answer follows them. Those of `STATED` state it; those of `CHOSEN` count where none of `STATED` does."""

from __future__ import annotations

import re

_ADVERB = r"(?:\s+(?:therefore|thus|then|hence|clearly|probably|(?:most\s+)?likely|indeed|simply))?"
_IS = (  # "is", "was clearly", "would then be", "is that", ":", "="
    rf"(?:\s+(?:is|was|are|were|(?:would|should|must|will|has\s+to){_ADVERB}\s+be)\b{_ADVERB}(?:\s+that\b(?!'))?\s*[:=]?"
    r"|[\"']?\s*[:=])\s*"
)
_OF = r"(?:\s+(?:to|for|of|in|among)\s[^\n.:=]{1,80}?|,\s[^,\n]{1,30},)?"  # "to the question", ", then,"

STATED = re.compile(
    "|".join(
        (
            rf"\banswers?{_OF}{_IS}",  # "The answer to the question is B", "Answer: B"
            r"\bchange[sd]?\s+(?:my|the)\s+answer\s+to\s+",  # "I changed my answer to B"
            r"\banswer\s+(?=\([A-Z]\))",  # "answer (B)"
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
            r"\b(?:therefore|thus|hence|so),?\s+(?=\(?[A-Z]\)?\s*(?:[.!]|$))",  # "Therefore B."
        )
    ),
    re.I,
)
