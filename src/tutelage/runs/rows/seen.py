"""What is remembered of a section's rows once they were read: which were left out, repeat others, or ask the same."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tutelage.common.errors import listed
from tutelage.common.hashing import keyed_integer
from tutelage.common.types import Conversation
from tutelage.data.dataset import (
    LoadedData,
    asked_text,
    bad_rows_note,
    questions_of,
    repeated_note,
    repetitions,
)
from tutelage.data.encode_rows import in_rows
from tutelage.data.large.stored import StoredRows

NEAR_ROWS, NEAR_CHARACTERS = 5000, 2_000_000  # the first of a section whose questions are kept to look for near ones
SHORT_ANSWER = 12  # words of the median answer up to which answers are short
FEW_ANSWERS = 20  # different ones: so few are a choice among categories, which are the same in all sections


class SeenRows:
    """Not the rows' text, unless that lies in the cache, but for the first questions."""

    def __init__(self, data: LoadedData) -> None:
        rows = data.conversations
        self.count, self.questions = len(rows), questions_of(rows)  # the latter without those of plain text
        self.usable = data.total - len(data.bad_rows) - len(data.repeated)  # of which `size` and `skip` took `count`
        self._stored = rows if isinstance(rows, StoredRows) else None
        asking = [] if self._stored is not None else [row for row in rows if not row.plain]
        self._sources, self._wholes = [row.source for row in asking], [_whole(row) for row in asking]
        self._ids = [row.id for row in asking]
        self._repeated = [] if self._stored is not None else repetitions(in_file_order(rows))
        self._answers = [[_answer(text) for text in row.targets] for row in asking]
        words = [len(text.split()) for row in asking for text in row.targets]
        self._short = bool(words) and statistics.median(words) <= SHORT_ANSWER
        self._asked = list(_first_asked(asking))
        self.left_out = bad_rows_note(data) + repeated_note(data) + ([] if self._stored is not None else gaps(rows))
        self.bad = {row.source for row in data.bad_rows}
        # what `runs/rows/notes.py` found, which takes a while: by place in `questions`, in words
        self.nearly: dict[SeenRows, dict[int, str]] = {}

    @property
    def repeated(self) -> list[str]:
        """Lines about rows that repeat or contradict others, as of `repetitions`."""
        if self._stored is None:
            return self._repeated
        if len(self.questions) < self.count:  # plain text has no question, so no place is known
            return []
        _, group, sizes = np.unique(self.questions, return_inverse=True, return_counts=True)
        again = [self._stored[int(place)] for place in np.flatnonzero(sizes[group] > 1)]
        return repetitions(in_file_order(again))

    @property
    def asked(self) -> list[tuple[int, str, str]]:
        """Of the first rows: the place in `questions`, the source, and the text of the question."""
        if self._stored is None:
            return self._asked
        if len(self.questions) < self.count:
            return []
        return list(_first_asked(self._stored[place] for place in range(min(NEAR_ROWS, self.count))))

    def shared(self, other: SeenRows) -> dict[int, tuple[str, bool]]:
        """The rows whose question is one of the other's, by their place in `questions`, each with that one, by file and
        line, and whether that one's answer is another."""
        places: dict[int, list[int]] = {}
        asked = set(self.questions)
        for place, question in enumerate(other.questions):
            if question in asked:
                places.setdefault(question, []).append(place)
        both = [(place, places[question]) for place, question in enumerate(self.questions) if question in places]
        return {one: self._beside(one, other, found) for one, found in both}

    def _beside(self, own: int, other: SeenRows, places: Sequence[int]) -> tuple[str, bool]:
        answers = self._answers_at(own)
        for place in places:
            theirs = other._answers_at(place)
            if answers and theirs and not {*answers} & {*theirs}:
                return f"{self._source(own)} asks what {other._source(place)} asks", True
        same = self._whole(own) == other._whole(places[0])
        how = "repeats {}" if same else "asks what {} asks"
        return f"{self._source(own)} {how.format(other._source(places[0]))}", False

    def id_of(self, place: int) -> str:
        """The id of the row at this place in `questions`."""
        return self._ids[place] if self._stored is None else self._stored[place].id

    def answered_alike(self, other: SeenRows) -> list[str]:
        """The rows whose answer is the other's answer to another question, each with that one, by file and line; where
        answers are short and no categories. Of rows in memory."""
        places = {answer: place for place, answers in reversed([*enumerate(other._answers)]) for answer in answers}
        if not self._short or len(places) <= FEW_ANSWERS:
            return []
        known, found = set(other.questions), []
        for place, answers in enumerate(self._answers):
            same = next((places[answer] for answer in answers if answer in places), None)
            if same is not None and self.questions[place] not in known:
                found.append(f"{self._source(place)} is answered as {other._source(same)}")
        return found

    def _source(self, place: int) -> str:
        return self._sources[place] if self._stored is None else self._stored[place].source

    def _answers_at(self, place: int) -> list[int]:
        return self._answers[place] if self._stored is None else [_answer(text) for text in self._stored[place].targets]

    def _whole(self, place: int) -> int:
        return self._wholes[place] if self._stored is None else _whole(self._stored[place])


def in_file_order(rows: Sequence[Conversation]) -> list[Conversation]:
    """The rows by file and line, however they were drawn: of two equal ones the first in the file is then the first."""

    def place(row: Conversation) -> list[str | int]:
        parts = re.split(r"(\d+)", row.source)  # texts and numbers by turns
        return [int(part) if number % 2 else part for number, part in enumerate(parts)]

    return sorted(rows, key=place)


def gaps(rows: Sequence[Conversation]) -> list[str]:
    """Lines about rows with a cell that leaves a gap in a template."""
    found: dict[str, list[str]] = {}
    for row in in_file_order(rows):
        for what in row.remarks:
            found.setdefault(what, []).append(row.source)
    return [in_rows(what, len(sources), listed(sources)) for what, sources in found.items()]


def _whole(row: Conversation) -> int:
    return keyed_integer(*(text for message in row.messages for text in (message.role, message.content)))


def _answer(text: str) -> int:
    """A number, equal for equal answers but for case and spaces."""
    return keyed_integer(" ".join(text.casefold().split()))


def _first_asked(rows: Iterable[Conversation]) -> Iterator[tuple[int, str, str]]:
    characters = 0
    for place, row in enumerate(rows):
        text = asked_text(row)
        characters += len(text)
        if place >= NEAR_ROWS or characters > NEAR_CHARACTERS:
            return
        yield place, row.source, text
