"""The time that a list of unlike pieces of work still takes: guesses, corrected by what the pieces before them took."""

from __future__ import annotations

import time
from dataclasses import dataclass

_OWN = 0.2  # a kind's first ended piece outweighs what is known of other kinds by 1 / this
_PRIOR = 0.03  # share of all guesses with which a guess counts as evidence for itself

_TRUSTED = 0.1  # share of a piece from which on its own speed counts alone: of answers, the first end late

_UNKNOWN = "unknown "  # begins the keys of pieces that are not known yet


@dataclass
class _Piece:
    kind: str
    guess: float  # seconds, beforehand
    began: float | None = None
    seconds: float | None = None  # once it has ended
    mark: tuple[float, float] | None = None  # when its share was first told, and what it was then
    share: float = 0.0  # of its units that are done
    before: float = 0.0  # share of all its units that an earlier call did; `guess` is for the others

    @property
    def has_speed(self) -> bool:
        """Whether it has begun, and more is done than when its share was first told."""
        return self.began is not None and self.mark is not None and self.share > self.mark[1]

    @property
    def trust(self) -> float:
        """How much its speed counts (0..1)."""
        return 0.0 if self.mark is None else min(1.0, (self.share - self.mark[1]) / _TRUSTED) ** 2


class TimeLeft:
    """Seconds until all pieces have ended. All times are of one clock, in seconds.

    A piece's guess is multiplied by what pieces of its kind took in proportion to theirs, or all pieces where none of
    its kind has ended: trainings tell little of evaluations. `jobs`: pieces that are worked on at the same time.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self._pieces: dict[str, _Piece] = {}
        self._dropped: list[bool] = []  # whether each was done

    def add(self, key: str, kind: str, guess: float) -> None:
        """Add a piece; `guess`: seconds that it may take, of which only the proportions matter in the end."""
        self._pieces.setdefault(key, _Piece(kind, max(guess, 1e-3)))

    def begin(self, key: str, now: float) -> None:
        self._pieces[key].began = now

    def part(self, key: str, share: float, now: float, before: float = 0.0) -> None:
        """Say that `share` (0..1) of a piece's units are done, apart from the share `before` of all that an earlier
        call did."""
        piece = self._pieces[key]
        if before > piece.before:
            piece.guess *= max(1.0 - before, 0.01) / (1.0 - piece.before)
            piece.before = min(before, 0.99)
        if piece.mark is None or share < piece.share:  # a second count within the piece begins anew
            piece.mark = (now, share)
        piece.share = share

    def end(self, key: str, now: float) -> None:
        piece = self._pieces[key]
        piece.seconds = now - (now if piece.began is None else piece.began)

    def taken(self, key: str) -> float:
        """Seconds that a piece took; 0 before it has ended."""
        return self._pieces[key].seconds or 0.0

    def drop(self, key: str, done: bool = False) -> None:
        """A piece that will not be done, or that is `done` by others. It is counted all the same: a whole that
        becomes smaller on the way is not understood."""
        if self._pieces.pop(key, None) is not None:
            self._dropped.append(done)

    def expect(self, count: int) -> None:
        """Say that `count` more pieces will be added, of which nothing is known yet."""
        mean = sum(piece.guess for piece in self._pieces.values()) / max(1, len(self._pieces))
        self._pieces = {key: piece for key, piece in self._pieces.items() if not key.startswith(_UNKNOWN)}
        for number in range(count):
            self.add(f"{_UNKNOWN}{number}", "", mean)

    @property
    def counts(self) -> tuple[int, int]:
        """How many pieces have ended, of how many."""
        done = sum(piece.seconds is not None for piece in self._pieces.values()) + sum(self._dropped)
        return done, len(self._pieces) + len(self._dropped)

    def seconds(self, now: float) -> float:
        """The time left."""
        todo = [piece for piece in self._pieces.values() if piece.seconds is None]
        left = [self._left(piece, now) for piece in todo]
        return max([sum(left) / self.jobs, *left], default=0.0)

    def _left(self, piece: _Piece, now: float) -> float:
        whole = self._whole(piece, now)
        return whole if piece.began is None else max(whole - (now - piece.began), 0.0)

    def _whole(self, piece: _Piece, now: float) -> float:
        """What the piece takes in all, by its own speed as far as that is known."""
        if piece.seconds is not None:
            return piece.seconds
        guess = piece.guess * self._ratio(piece.kind, now)
        if not piece.has_speed:
            return guess
        assert piece.began is not None
        return piece.trust * _measured(piece, now) + (1.0 - piece.trust) * max(guess, now - piece.began)

    def _ratio(self, kind: str, now: float) -> float:
        """Seconds taken per second guessed by this kind: ended pieces count, and of others the share that is done."""
        pieces = list(self._pieces.values())
        own = [piece for piece in pieces if piece.kind == kind]
        of_all = self._weighed(pieces, _PRIOR * sum(piece.guess for piece in pieces), 1.0, now)
        return self._weighed(own, _OWN * sum(piece.guess for piece in own) / len(own), of_all, now)

    def _weighed(self, pieces: list[_Piece], weight: float, ratio: float, now: float) -> float:
        """The ratio of those pieces that tell it, together with `weight` seconds at `ratio`."""
        taken, guessed = weight * ratio, weight
        for piece in pieces:
            share = 1.0 if piece.seconds is not None else piece.share * piece.trust
            if piece.seconds is not None or piece.has_speed:
                taken, guessed = taken + share * _measured(piece, now), guessed + share * piece.guess
        return taken / guessed


def _measured(piece: _Piece, now: float) -> float:
    """What a piece that has ended took, or what one with a speed takes at that."""
    if piece.seconds is not None:
        return piece.seconds
    assert piece.began is not None
    assert piece.mark is not None
    since, before = piece.mark
    speed = (piece.share - before) / max(now - since, 1e-3)
    return now - piece.began + (1.0 - piece.share) / speed


def elapsed(since: float) -> float:
    """Seconds since a value of `time.monotonic()`, always above 0: the clock of a virtual machine may stand still or
    jump back, and speeds are divided by it."""
    return max(1e-9, time.monotonic() - since)


def duration(seconds: float) -> str:
    """A duration for people: 4 s, 1 min 32 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def about(seconds: float) -> str:
    """An estimate for people, no finer than it is known: about 20 s, about 4 min, about 2 h 10 min."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} s"
    if seconds < 600:
        return f"about {round(seconds / 30) / 2:g} min"
    if seconds < 3600:
        return f"about {seconds / 60:.0f} min"
    minutes = round(seconds / 600) * 10
    return f"about {minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
