"""Whether a new text is like the gold texts: in script, language, first word and length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tutelage.synthesis.words import script_counts, words

_ENOUGH = 30  # gold texts below which language and form are not judged


class Likeness:
    """Checks of a text against the gold texts. Each returns a complaint, or None if the text is like them.

    Script: a text's main script must be that of at least 2 % of the gold texts, and at most 10 % of its letters may be
    of scripts that are rare in gold (below 0.1 % of the letters). Language: of a text's words, the share of gold's 100
    most frequent words must be at least half of that of gold's lowest 1 %. Form: if 95 % of the gold texts begin with
    one word, a text must too; its words must be at least half as many as in gold's shortest 1 % and at most twice as
    many as in its longest 1 %. Too few gold texts, and texts of fewer than 8 words, are not judged by language.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [script_counts(text) for text in texts]
        self.letterless = sum(not count for count in counts) > 0.02 * len(counts)
        counts = [count for count in counts if count]
        self.main_scripts = Counter(count.most_common(1)[0][0] for count in counts)
        self.letters = sum(counts, Counter())
        texts_words = [words(text) for text in texts]
        self.frequent = {word for word, _ in Counter(w for text in texts_words for w in text).most_common(100)}
        shares = sorted(self._frequent_share(text) for text in texts_words if len(text) >= 8)
        self.least_share = 0.5 * shares[len(shares) // 100] if len(shares) >= _ENOUGH else 0.0
        self.first, self.shortest, self.longest = None, 0.0, float("inf")
        if len(texts_words) >= _ENOUGH:
            lengths = sorted(map(len, texts_words))
            rank = len(lengths) // 100
            self.shortest, self.longest = 0.5 * lengths[rank], 2.0 * lengths[-1 - rank]
            word, count = Counter(text.split()[0] for text in texts if text.strip()).most_common(1)[0]
            self.first = word if count >= 0.95 * len(texts_words) else None

    def script_complaint(self, text: str) -> str | None:
        """Complain of a text in another script, or without letters."""
        count = script_counts(text)
        if not self.main_scripts or not count:
            return "no letters" if self.main_scripts and not self.letterless and len(words(text)) >= 3 else None
        main = count.most_common(1)[0][0]
        if self.main_scripts[main] < 0.02 * sum(self.main_scripts.values()):
            return f"written in {main.title()}"
        rare = {s for s in count if self.letters[s] < 0.001 * sum(self.letters.values())}
        foreign = sum(count[s] for s in rare) / sum(count.values())
        return f"{foreign:.0%} of the letters are {'/'.join(sorted(rare)).title()}" if foreign > 0.1 else None

    def language_complaint(self, text: str) -> str | None:
        """Complain of a text with too few of the words that are frequent in gold."""
        share = self._frequent_share(words(text))
        if len(words(text)) < 8 or share >= self.least_share:
            return None
        return f"{share:.0%} of the words are frequent in the gold data"

    def form_complaint(self, text: str) -> str | None:
        """Complain of another first word or another length."""
        if self.first is not None and text.split()[:1] != [self.first]:
            return f"does not begin with `{self.first}`"
        count = len(words(text))
        return None if self.shortest <= count <= self.longest else f"{count} words, unlike the gold data"

    def _frequent_share(self, text_words: Sequence[str]) -> float:
        return sum(word in self.frequent for word in text_words) / max(1, len(text_words))
