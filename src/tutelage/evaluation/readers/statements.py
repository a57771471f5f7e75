"""Which statements of an answer hold in a reply. Every reader of answers reads the text that `what_holds` gives.

| | example | becomes |
|---|---|---|
| a statement: a cue and what follows it (`cues.py`) | "the answer is B" | itself; the last one counts |
| denied, asked for, supposed (`not_stated.py`) | "it is wrong to say that the answer is B" | "the answer is not B" |
| taken back (`taken_back.py`) | "The answer is B. That is wrong. It is C." | "It is C." |
| in parallel with a different one (`parallel.py`) | "1. Answer: B\\n2. Answer: C" | a statement of both |

What else names another answer beside the last statement is a second one by the rules of `second_answer.py`.
"""

from __future__ import annotations

from tutelage.evaluation.readers.not_stated import without_unstated
from tutelage.evaluation.readers.parallel import joined_statements
from tutelage.evaluation.readers.taken_back import what_stands


def what_holds(text: str) -> str:
    """The text without answers that it denies, only asks for, supposes or takes back; what it states in parallel is one
    statement, of no single answer."""
    return joined_statements(what_stands(without_unstated(text)))
