"""The prompts for new inputs (eq. 4–5, appendix A.4), and the lines that all prompts of a task share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

from tutelage.common.types import Conversation, Message
from tutelage.synthesis.words import word_runs, words

# Appendix A.4 of the paper, word for word; there the last sentence comes after a footnote.
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
_ECHO = 6  # words in a row from the instruction that count as repeating it

_NEXT = re.compile(r"^(?:In:|Out:|Out\Z)", re.MULTILINE)  # the next field of the list, which ends the new input

_SENTENCE = re.compile(r"[.:!?] ")


@dataclass(frozen=True)
class Demonstration:
    """One gold row, without the frame."""

    id: str
    input: str
    output: str


@dataclass(frozen=True)
class Frame:
    """The lines that all gold prompts begin and end with, mostly the task's instruction.

    Demonstrations are shown without the frame and new inputs get it back: the generator writes only the content, and
    every prompt of the task has the same instruction.
    """

    before: str = ""
    after: str = ""
    system: str | None = None

    def content(self, text: str) -> str:
        """The text without those parts of the frame that it has."""
        if self.before and text.startswith(self.before):
            text = text[len(self.before) :]
        if self.after and text.endswith(self.after):
            text = text[: len(text) - len(self.after)]
        return text

    def messages(self, text: str) -> tuple[Message, ...]:
        """The prompt of a new row with this content."""
        user = Message("user", f"{self.before}{text}{self.after}")
        return (user,) if self.system is None else (Message("system", self.system), user)


def find_frame(conversations: Sequence[Conversation]) -> Frame:
    """The full lines that all prompts begin and end with, and their system turn if they share one.

    If they share no line at the start: the sentence, or text up to a colon, that all begin with.
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
    first, last = min(texts), max(texts)  # the extremes in sorted order: what they share, all share
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def single_turns(conversations: Sequence[Conversation]) -> list[Conversation]:
    """The rows with one user turn and one answer."""
    return [row for row in conversations if sum(m.role == "user" for m in row.messages) == 1 and row.response]


def demonstrations_text(demonstrations: Sequence[Demonstration]) -> str:
    """`In: …` and `Out: …` per demonstration, with blank lines between them."""
    return "\n\n".join(f"In: {one.input}\nOut: {one.output}" for one in demonstrations)


def chat_prompt(demonstrations: Sequence[Demonstration]) -> str:
    """The user message of appendix A.4 that asks for a new input."""
    head = _HEAD.format(count=len(demonstrations))
    return f"{head}{demonstrations_text(demonstrations)}{_CLOSING}"


def continuation_prompt(demonstrations: Sequence[Demonstration]) -> str:
    """Eq. 4: I ⊕ [In: x_1 Out: y_1 … In: x_k Out: y_k In:], for models that only continue text."""
    head = _HEAD.format(count=len(demonstrations))
    return f"{head}{demonstrations_text(demonstrations)}\n\nIn:"


def continuation_input(text: str) -> tuple[str, bool]:
    """The new input in the text that a model wrote after `In:`, and whether the next field follows it."""
    found = _NEXT.search(text)
    return (text[: found.start()], True) if found else (text, False)


def continuation_stops(tokenizer: Any) -> tuple[int, ...]:
    """The token id of `Out` at the start of a line: the input ends there, so sampling can stop.

    An empty tuple if the tokenizer joins it with the line break; `continuation_input` then cuts the input.
    """
    ids = tokenizer("a cat.\nOut: a dog", add_special_tokens=False)["input_ids"]
    return tuple(token for token in ids if tokenizer.decode([token], clean_up_tokenization_spaces=False) == "Out")


def repeats_instruction(text_words: Sequence[str]) -> bool:
    """Whether a text has six words in a row from the instruction of its prompt."""
    return not _instruction_runs().isdisjoint(word_runs(text_words, _ECHO))


@cache
def _instruction_runs() -> frozenset[int]:
    return frozenset(word_runs(words(_HEAD.format(count="")), _ECHO) + word_runs(words(_CLOSING), _ECHO))
