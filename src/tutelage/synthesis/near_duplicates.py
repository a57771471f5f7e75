"""Near-duplicate texts, found by MinHash."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from tutelage.synthesis.words import shingles

PERMUTATIONS = 128  # of a MinHash; the standard error of an estimated Jaccard similarity is at most 0.04


class NearDuplicates:
    """Known texts and their MinHashes.

    A locality-sensitive index gives candidates, and their estimated Jaccard similarity decides.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        # The index has a lower threshold, so that it misses hardly any text at the requested one.
        self._index = MinHashLSH(threshold=max(0.1, threshold - 0.2), num_perm=PERMUTATIONS)
        self._known: list[tuple[str, str, Any]] = []
        self._last: tuple[list[str], Any] = ([], None)
        self.nearest_of_last = 0.0

    def find(self, text_words: list[str], sources: Sequence[str]) -> tuple[str, str, float] | None:
        """(source, id, similarity) of the most similar text from `sources`, or None if it is below the threshold."""
        hashed = self._hash(text_words)
        best: tuple[str, str, float] | None = None
        for key in sorted(int(str(key)) for key in self._index.query(hashed)):
            source, id, other = self._known[key]
            similarity = float(hashed.jaccard(other))
            if source in sources and (best is None or similarity > best[2]):
                best = source, id, similarity
        self.nearest_of_last = best[2] if best is not None else 0.0
        return best if best is not None and best[2] >= self.threshold else None

    def add(self, source: str, id: str, text_words: list[str]) -> None:
        """Add a known text."""
        hashed = self._hash(text_words)
        self._index.insert(len(self._known), hashed)
        self._known.append((source, id, hashed))

    def _hash(self, text_words: list[str]) -> Any:
        if self._last[1] is None or self._last[0] != text_words:
            self._last = text_words, minhash(text_words)
        return self._last[1]


def minhash(text_words: Sequence[str]) -> Any:
    """The MinHash of a text's character 5-grams."""
    made = _empty_minhash().copy()
    made.update_batch(shingles(text_words))
    return made


@cache
def _empty_minhash() -> Any:
    """An empty MinHash to copy: copies share its permutations and its cache of hashed 5-grams."""
    from datasketch import MinHash
    from datasketch.hashfunc import sha1_hash32

    cached_hash = lru_cache(maxsize=2**20)(lambda shingle: sha1_hash32(shingle.encode()))
    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=cached_hash)
