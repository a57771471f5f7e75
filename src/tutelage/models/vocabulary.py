"""Checks that teacher and student share a vocabulary: every token id must mean the same to both."""

from __future__ import annotations

from typing import Any

from tutelage.common.errors import TutelageError

PROBE = "Zwölf Boxkämpfer jagen 1234 quick brown foxes;\n\n  def f(x): return x**2  # naïve 東京 🙂"


def check_vocabularies(teacher: Any, student: Any) -> str | None:
    """Check that every token id means the same to both tokenizers.

    Returns a notice if one has more tokens than the other, else None. Raises TutelageError that names the first
    differing token, or if the tokenizers split text differently.
    """
    student_tokens, teacher_tokens = (
        {i: t for t, i in tokenizer.get_vocab().items()} for tokenizer in (student, teacher)
    )
    common = min(max(student_tokens), max(teacher_tokens)) + 1
    for i in range(common):
        if student_tokens.get(i) != teacher_tokens.get(i):
            raise TutelageError(
                f"teacher and student have different tokenizers: token {i} is {teacher_tokens.get(i)!r} for the "
                f"teacher and {student_tokens.get(i)!r} for the student. Choose a teacher of the student's family"
            )
    if teacher.encode(PROBE, add_special_tokens=False) != student.encode(PROBE, add_special_tokens=False):
        raise TutelageError(
            "teacher and student have the same tokens but split text differently (their merges or normalisers "
            "differ). Choose a teacher of the student's family"
        )
    if len(student_tokens) != len(teacher_tokens):
        sizes = f"student {len(student_tokens)}, teacher {len(teacher_tokens)}"
        return f"vocabularies are cut to their common {common} tokens ({sizes})"
    return None


def head_notice(teacher: Any, student: Any) -> str | None:
    """A notice if the two output heads differ in rows (padded vocabularies of one family), else None."""
    rows = [m.get_output_embeddings().weight.shape[0] for m in (teacher, student)]
    if rows[0] == rows[1]:
        return None
    return f"heads are cut to their common {min(rows)} rows (teacher {rows[0]}, student {rows[1]})"
