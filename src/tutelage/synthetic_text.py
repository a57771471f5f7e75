"""Text for synthesis: the prompt that asks for new inputs, and what can be said of a text without a model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

from tutelage.types import Conversation, Message

# Appendix A.4 of the paper, word for word; its last sentence stands after a footnote there.
_HEAD = """\
You are a data generation assistant. You will be given {count} demonstrations
Task: Based on these examples, produce exactly one new input message that matches the same task, language, and style.
Strict requirements: Output only the message content itself. Do NOT include any explanations, quotes, labels, or the \
answer.

Here are {count} demonstrations:
"""
_CLOSING = """
Now, generate exactly one brand-new input message that follows the same task and formatting.
Output only the input message content itself. Do not output any answer or extra text."""
_ECHO = 6  # words in a row
_ENOUGH = 30  # gold texts to judge by
_NEXT = re.compile(r"^(?:In:|Out:|Out\Z)", re.MULTILINE)  # where the continuation of a list leaves the new input

_SENTENCE = re.compile(r"[.:!?] ")


@dataclass(frozen=True)
class Demonstration:
    """One gold row, without the words that all rows share."""

    id: str
    input: str
    output: str


@dataclass(frozen=True)
class Frame:
    """The lines that all gold prompts begin and end with: the task's own instruction, mostly.

    Demonstrations are shown without it and new inputs get it back, so that a generator writes content alone and a
    student always meets the task in its own words.
    """

    before: str = ""
    after: str = ""
    system: str | None = None

    def content(self, text: str) -> str:
        """The text without the frame, as far as it has it."""
        if self.before and text.startswith(self.before):
            text = text[len(self.before) :]
        if self.after and text.endswith(self.after):
            text = text[: len(text) - len(self.after)]
        return text

    def messages(self, text: str) -> tuple[Message, ...]:
        """The prompt of a new row."""
        user = Message("user", f"{self.before}{text}{self.after}")
        return (user,) if self.system is None else (Message("system", self.system), user)


def find_frame(conversations: Sequence[Conversation]) -> Frame:
    """The whole lines that the prompts have in common at both ends, and their system turn if they share one.

    Where they share no line, a sentence or `Translate this into German:` that all begin with.
    """
    texts = [row.prompt[-1].content for row in conversations]
    systems = {row.prompt[0].content if row.prompt[0].role == "system" else None for row in conversations}
    system = systems.pop() if len(systems) == 1 else None
    if len(set(texts)) < 2:
        return Frame(system=system)
    before = _common_start(texts)
    sentences = [found.end() for found in _SENTENCE.finditer(before) if len(before[: found.end()].split()) > 2]
    before = before[: before.rfind("\n") + 1] or before[: max(sentences, default=0)]
    after = _common_start([text[len(before) :][::-1] for text in texts])[::-1]
    after = after[after.find("\n") :] if "\n" in after else ""
    return Frame(before, after, system)


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # in order, so what these two share all share
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def single_turns(conversations: Sequence[Conversation]) -> list[Conversation]:
    """The rows that ask once and are answered once."""
    return [row for row in conversations if sum(m.role == "user" for m in row.messages) == 1 and row.response]


def demonstrations_text(demonstrations: Sequence[Demonstration]) -> str:
    return "\n\n".join(f"In: {one.input}\nOut: {one.output}" for one in demonstrations)


def chat_prompt(demonstrations: Sequence[Demonstration]) -> str:
    """The message of appendix A.4."""
    head = _HEAD.format(count=len(demonstrations))
    return f"{head}{demonstrations_text(demonstrations)}{_CLOSING}"


def continuation_prompt(demonstrations: Sequence[Demonstration]) -> str:
    """Eq. 4: I ⊕ [In: x_1 Out: y_1 … In: x_k Out: y_k In:], for models that only continue text."""
    head = _HEAD.format(count=len(demonstrations))
    return f"{head}{demonstrations_text(demonstrations)}\n\nIn:"


def continuation_input(text: str) -> tuple[str, bool]:
    """The new input in what a model wrote after `In:`, and whether it is whole, since the next field follows."""
    found = _NEXT.search(text)
    return (text[: found.start()], True) if found else (text, False)


def continuation_stops(tokenizer: Any) -> tuple[int, ...]:
    """The token that `Out` is at the start of a line: the input is over there, and sampling on would be in vain.

    None where the tokenizer joins it with the line break; the input is then cut out afterwards.
    """
    ids = tokenizer("a cat.\nOut: a dog", add_special_tokens=False)["input_ids"]
    return tuple(token for token in ids if tokenizer.decode([token], clean_up_tokenization_spaces=False) == "Out")


# --- words -----------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Lower-case words without punctuation. Vowel signs stay in their words; Han and kana characters are words each."""
    return unicodedata.normalize("NFKC", text).lower().translate(_breaks()).split()


def runs(text_words: Sequence[str], length: int) -> list[int]:
    """A number for every run of `length` words; the same within one process."""
    return [hash(tuple(text_words[i : i + length])) for i in range(len(text_words) - length + 1)]


def shingles(text_words: Sequence[str], size: int = 5) -> set[str]:
    """The character n-grams of a text, spaces made one."""
    text = " ".join(text_words)
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


class _Breaks(dict[int, str]):
    """What becomes of each character, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if unicodedata.category(char) == "Cf":  # invisible, as a soft hyphen, and within words
            self[code] = ""
        elif unicodedata.category(char)[0] in "PSZC":
            self[code] = " "
        else:
            self[code] = f" {char} " if script_of(char) in ("CJK", "HIRAGANA", "KATAKANA") else char
        return self[code]


@cache
def _breaks() -> _Breaks:
    return _Breaks()


# --- scripts and languages -------------------------------------------------------------------------------------------


@cache
def script_of(char: str) -> str | None:
    """The script of a letter, by the first word of its Unicode name; None for other characters."""
    if not char.isalpha():
        return None
    name = unicodedata.name(char, "").split(" ")[0].partition("-")[0]
    return {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA"}.get(name, name) or None


def script_counts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        if (script := script_of(char)) is not None:
            counts[script] += count
    return counts


def repeats_instruction(split: Sequence[str]) -> bool:
    """Whether a text has six words in a row of the prompt that asked for it."""
    return not _instruction_runs().isdisjoint(runs(split, _ECHO))


@cache
def _instruction_runs() -> frozenset[int]:
    return frozenset(runs(words(_HEAD.format(count="")), _ECHO) + runs(words(_CLOSING), _ECHO))


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
