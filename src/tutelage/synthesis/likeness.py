"""Does a new text look like the gold texts: length, script, line breaks?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tutelage.synthesis.words import script_counts, words

_ENOUGH = 30  # gold texts to judge by


class Likeness:
    """What gold texts are written in, and whether another text is.

    Scripts: a text's main script must be that of 2 % of the gold texts, and at most a tenth of its letters may be of
    scripts that gold hardly uses. Languages: a text must use gold's hundred most frequent words at least half as much
    as the gold texts that use them least (lowest hundredth). Form: where 95 % of the gold texts begin with one word, so
    must a text, and it may be half as short as the shortest hundredth of them and twice as long as the longest. Too few
    or too short gold texts judge nothing.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [script_counts(text) for text in texts]
        self.letterless = sum(not count for count in counts) > 0.02 * len(counts)
        counts = [count for count in counts if count]
        self.main = Counter(count.most_common(1)[0][0] for count in counts)
        self.letters = sum(counts, Counter())
        split = [words(text) for text in texts]
        self.frequent = {word for word, _ in Counter(w for text in split for w in text).most_common(100)}
        shares = sorted(self._share(text) for text in split if len(text) >= 8)
        self.least = 0.5 * shares[len(shares) // 100] if len(shares) >= _ENOUGH else 0.0
        self.first, self.shortest, self.longest = None, 0.0, float("inf")
        if len(split) >= _ENOUGH:
            lengths = sorted(map(len, split))
            self.shortest, self.longest = 0.5 * lengths[len(split) // 100], 2.0 * lengths[-1 - len(split) // 100]
            word, count = Counter(text.split()[0] for text in texts if text.strip()).most_common(1)[0]
            self.first = word if count >= 0.95 * len(split) else None

    def script_complaint(self, text: str) -> str | None:
        count = script_counts(text)
        if not self.main or not count:
            return "no letters" if self.main and not self.letterless and len(words(text)) >= 3 else None
        main = count.most_common(1)[0][0]
        if self.main[main] < 0.02 * sum(self.main.values()):
            return f"written in {main.title()}"
        rare = {s for s in count if self.letters[s] < 0.001 * sum(self.letters.values())}
        foreign = sum(count[s] for s in rare) / sum(count.values())
        return f"{foreign:.0%} of the letters are {'/'.join(sorted(rare)).title()}" if foreign > 0.1 else None

    def language_complaint(self, text: str) -> str | None:
        split = words(text)
        if len(split) < 8 or self._share(split) >= self.least:
            return None
        return f"{self._share(split):.0%} of the words are frequent in the gold data"

    def form_complaint(self, text: str) -> str | None:
        if self.first is not None and text.split()[:1] != [self.first]:
            return f"does not begin with `{self.first}`"
        count = len(words(text))
        return None if self.shortest <= count <= self.longest else f"{count} words, unlike the gold data"

    def _share(self, split: Sequence[str]) -> float:
        return sum(word in self.frequent for word in split) / len(split)
