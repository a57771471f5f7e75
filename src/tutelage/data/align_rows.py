"""Whole data sections as a teacher with another chat template reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tutelage.common.hashing import fingerprint
from tutelage.common.types import Conversation, TokenSequence
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.columns import BadRow
from tutelage.data.dataset import LoadedData
from tutelage.data.large.made import made
from tutelage.data.large.stored import StoredSequences, indices_of
from tutelage.data.teacher_prompts import align, same_rendering, teacher_view


def align_all(
    sequences: Sequence[TokenSequence],
    data: LoadedData,
    student: ChatTemplate,
    teacher: ChatTemplate,
    context: int | None,
    key: str,
) -> tuple[Sequence[TokenSequence], dict[str, Any]]:
    """The sequences of a whole section as the teacher is to read them, at most `context` tokens of its own rendering.

    Those that are longer are left out; the last one left of such a row is then `cut`. Also returned are, as lists,
    `refused`: [source, reason] of the rows that the teacher's template cannot render; `beyond`: the sources of rows
    that lose all their sequences; and `shorter`: of those that lose the last ones.
    """
    work, name = _Align(sequences, data.conversations, student, teacher, context, indices_of(sequences)), ""
    if isinstance(sequences, StoredSequences):
        if same_rendering(student, teacher) and (context is None or sequences.lengths.max() <= context):
            return sequences, {"refused": [], "beyond": [], "shorter": []}
        name = fingerprint(sequences.folder.name, data.fingerprint, student.fingerprint, teacher.fingerprint, context)
    out, parts = made(work, len(data.conversations), name, key)
    return out, {what: [one for part in parts for one in part[what]] for what in ("refused", "beyond", "shorter")}


@dataclass(frozen=True)
class _Align:
    """The work of `align_all`, which several processes may share."""

    sequences: Sequence[TokenSequence]
    rows: Sequence[Conversation]
    student: ChatTemplate
    teacher: ChatTemplate
    context: int | None
    indices: np.ndarray[Any, Any]  # `index` of each sequence, in ascending order

    def part(self, start: int, stop: int) -> tuple[list[TokenSequence], dict[str, Any]]:
        """The sequences of the rows from `start` to before `stop`, and what became of the others."""
        refused: list[BadRow] = []
        first, last = self.indices.searchsorted([start, stop])
        own = self.sequences[first:last]
        rows = _From(self.rows[start:stop], start)
        aligned = align(own, rows, self.student, self.teacher, refused)
        kept: dict[int, list[TokenSequence]] = {}
        lost: dict[int, bool] = {}  # by row, whether its last sequence is too long
        for one in aligned:
            left = kept.setdefault(one.index, [])
            lost[one.index] = self.context is not None and len(teacher_view(one).ids) > self.context
            if not lost[one.index]:
                left.append(replace(one, part=len(left)))
        for index, left in kept.items():
            if left and lost[index]:
                left[-1] = replace(left[-1], cut=True)
        return [one for left in kept.values() for one in left], {
            "refused": [[row.source, row.reason] for row in refused],
            "beyond": [rows[index].source for index, left in kept.items() if not left],
            "shorter": [rows[index].source for index, left in kept.items() if left and lost[index]],
        }


class _From(Sequence[Conversation]):
    """Some rows, named by their places among all."""

    def __init__(self, rows: Sequence[Conversation], start: int) -> None:
        self.rows, self.start = rows, start

    def __len__(self) -> int:
        return self.start + len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place - self.start]
