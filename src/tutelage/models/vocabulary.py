"""Whether two models share a vocabulary: token ids must mean the same to both."""

from __future__ import annotations

from typing import Any

from tutelage.common.errors import TutelageError


def check_vocabularies(teacher: Any, student: Any) -> str | None:
    """Token ids must mean the same to both tokenizers. Returns a notice where one has more tokens than the other.

    Raises TutelageError that names the first token that differs.
    """
    ours, theirs = ({i: t for t, i in tokenizer.get_vocab().items()} for tokenizer in (student, teacher))
    common = min(max(ours), max(theirs)) + 1
    for i in range(common):
        if ours.get(i) != theirs.get(i):
            raise TutelageError(
                f"teacher and student have different tokenizers: token {i} is {theirs.get(i)!r} for the teacher and "
                f"{ours.get(i)!r} for the student. Choose a teacher of the student's family"
            )
    probe = "Zwölf Boxkämpfer jagen 1234 quick brown foxes;\n\n  def f(x): return x**2  # naïve 東京 🙂"
    if teacher.encode(probe, add_special_tokens=False) != student.encode(probe, add_special_tokens=False):
        raise TutelageError(
            "teacher and student have the same tokens but split text differently (their merges or normalisers "
            "differ). Choose a teacher of the student's family"
        )
    if len(ours) != len(theirs):
        return f"vocabularies are cut to their common {common} tokens (student {len(ours)}, teacher {len(theirs)})"
    return None


def head_notice(teacher: Any, student: Any) -> str | None:
    """A word on heads of different height: padded vocabularies of one family."""
    rows = [m.get_output_embeddings().weight.shape[0] for m in (teacher, student)]
    if rows[0] == rows[1]:
        return None
    return f"heads are cut to their common {min(rows)} rows (teacher {rows[0]}, student {rows[1]})"
