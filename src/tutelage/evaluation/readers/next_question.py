"""Replies that go on with a next question of their own: what they answer to the one that was asked.

A base model's reply is cut at the benchmark's stops while it is sampled. A chat model may hold the same words in the
middle of its answer, so its reply is cut only where an answer stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tutelage.evaluation.readers.cues import STATED
from tutelage.evaluation.readers.find_answer import Found, find_if_ended, plain

_TRIED = 4  # places of such words: after the question that was asked, and within the answer


def find_before_next(find: Callable[[str], Found], reply: str, finished: bool, stops: Sequence[str]) -> Found:
    """What `find` finds in a reply, up to the first next question ("\\nQ:", of the `stops`) that follows an answer.

    "So the answer is No.\\n\\nQ: … So the answer is Yes." → No; "Question: …\\nAnswer: B" → B.
    """
    labels = [re.escape(label) for stop in stops if (label := stop.strip()).endswith(":")]
    if labels:
        places = [one.start() for one in re.finditer(rf"^[^\w\n]*(?:{'|'.join(labels)})", reply, re.M)]
        for start in places[:_TRIED]:
            before = reply[:start]
            if not before.strip():
                continue
            found = find_if_ended(find, before, finished=False)
            if found.answer is not None or STATED.search(plain(before)):
                return find(before)
    return find_if_ended(find, reply, finished)
