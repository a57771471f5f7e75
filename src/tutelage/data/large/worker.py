"""A process that does parts of a `made.Work`: it is given the work, then a line per part, and answers with a line each.

The work comes pickled from the process that starts this one, and from nobody else.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.files import storage_problem
from tutelage.common.types import TokenSequence
from tutelage.data.large.stored import write_sequences


def _read(one: TokenSequence) -> list[Tensor]:
    """All tokens that student or teacher read."""
    return [one.ids, *(prompt for prompt in one.teacher_prompts or () if len(prompt))]


def main() -> None:
    """Answer until the input ends."""
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    work = pickle.loads(given.read(int.from_bytes(given.read(8), "big")))
    for line in given:
        start, stop, file = json.loads(line)
        try:
            sequences, answer = work.part(start, stop)
            write_sequences(Path(file), sequences)
            found = [(max(int(part.max()) for part in _read(one)), one.index) for one in sequences]
            answer["highest"] = max(found, key=lambda one: (one[0], -one[1]), default=None)
        except TutelageError as error:
            answer = {"error": str(error)}
        except OSError as error:
            problem = storage_problem(error)
            if problem is None:
                raise
            answer = {"error": f"tokens cannot be kept in {Path(file).parent.parent}: {problem}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
