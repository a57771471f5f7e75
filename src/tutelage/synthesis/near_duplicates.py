"""Texts that are nearly the same, found by MinHash."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from tutelage.synthesis.words import shingles

PERMUTATIONS = 128  # of a MinHash: the estimate of a Jaccard similarity is good to about 0.04


class NearDuplicates:
    """Texts by MinHash: candidates from a locality-sensitive index, then the estimated Jaccard similarity decides."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        # The index is tuned to a lower similarity, where it misses next to nothing at the one asked for.
        self._index = MinHashLSH(threshold=max(0.1, threshold - 0.2), num_perm=PERMUTATIONS)
        self._known: list[tuple[str, str, Any]] = []
        self._last: tuple[list[str], Any] = ([], None)
        self.nearest_of_last = 0.0

    def find(self, split: list[str], sources: Sequence[str]) -> tuple[str, str, float] | None:
        """(source, id, similarity) of the most similar text from `sources` if it is too similar."""
        mine = self._hash(split)
        best: tuple[str, str, float] | None = None
        for key in sorted(int(str(key)) for key in self._index.query(mine)):
            source, id, other = self._known[key]
            similarity = float(mine.jaccard(other))
            if source in sources and (best is None or similarity > best[2]):
                best = source, id, similarity
        self.nearest_of_last = best[2] if best is not None else 0.0
        return best if best is not None and best[2] >= self.threshold else None

    def add(self, source: str, id: str, split: list[str]) -> None:
        mine = self._hash(split)
        self._index.insert(len(self._known), mine)
        self._known.append((source, id, mine))

    def _hash(self, split: list[str]) -> Any:
        if self._last[1] is None or self._last[0] != split:
            self._last = split, minhash(split)
        return self._last[1]


def minhash(split: Sequence[str]) -> Any:
    """The MinHash of a text's character 5-grams."""
    made = _empty_minhash().copy()
    made.update_batch(shingles(split))
    return made


@cache
def _empty_minhash() -> Any:
    """All share its permutations and its memory: most 5-grams of a text were hashed before."""
    from datasketch import MinHash
    from datasketch.hashfunc import sha1_hash32

    remembered = lru_cache(maxsize=2**20)(lambda shingle: sha1_hash32(shingle.encode()))
    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=remembered)
