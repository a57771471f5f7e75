"""The answer of a reply that ends as worked examples do: "… The answer is X." """

from __future__ import annotations

import re


def answer_phrase(reply: str, any_case: bool = False) -> str | None:
    """What follows the last "the answer is", without spaces around it and a full stop; None where there is none.

    This is BBH's official reading, whose cue is in lower case; `any_case` also takes "The answer is".
    """
    cues = list(re.finditer("the answer is", reply, re.I if any_case else 0))
    return reply[cues[-1].end() :].strip().removesuffix(".").strip() if cues else None
