"""Replies that think first: where the thought ends and the answer begins. What is scored is the answer.

A thought opens at the very start of a reply, or the reply begins inside one that its prompt opened. Marks that come
later, after visible text, are text like any other, and so are marks in quotes or backticks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.data.thoughts import PAIRS

if TYPE_CHECKING:
    from tutelage.data.chat_template import ChatTemplate

# Granite 3.2 and Apriel open a thought in words. Words are marks only if both are there.
_WORDS = {"Here is my thought process:": "Here is my response:", "Here's my thought process:": "Here's my response:"}
_WORDS |= {"Here are my reasoning steps:": "[BEGIN FINAL RESPONSE]"}
_AROUND_ANSWER = {  # what may stand around the answer after a thought
    "<response>": "</response>",
    "<answer>": "</answer>",
    "<|START_RESPONSE|>": "<|END_RESPONSE|>",
    "<|begin_of_solution|>": "<|end_of_solution|>",
}
_FINAL = r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"  # gpt-oss
_KEPT = {*PAIRS, *PAIRS.values(), *_AROUND_ANSWER, *_AROUND_ANSWER.values()}
_KEPT |= {"<|channel>", "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}
NO_ANSWER = "the thought does not end: no answer"
_QUOTES = "`\"'“”‘’"
_TAIL = 16  # tokens at the end of a prompt that may open a thought


def _any(marks: Sequence[str]) -> str:
    return "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))


_OPENING = re.compile(rf"\s*({_any([*PAIRS, *_WORDS])})", re.I)
_MARK = re.compile(rf"({_any([*PAIRS])})|(?:{_any([*PAIRS.values()])})", re.I)
_CLOSING = {start.lower(): re.compile(re.escape(end), re.I) for start, end in (PAIRS | _WORDS | _AROUND_ANSWER).items()}
_SPOKEN = {start.lower() for start in _WORDS}
_AROUND = re.compile(rf"\s*({_any([*_AROUND_ANSWER])})", re.I)
_CHANNELS = re.compile(r"\s*(?:<\|start\|>assistant)?\s*<\|channel\|>")
_FINAL_CHANNEL, _FINAL_END = re.compile(_FINAL), re.compile(r"<\|(?:end|return|start|call)\|>")
_OPENED_BY_PROMPT = re.compile(rf"(?:{_any([*PAIRS])}|<\|channel\|>analysis<\|message\|>)\s*\Z", re.I)


@dataclass(frozen=True)
class Reading:
    """A reply as scorers read it: `text[start:end]` is the answer, what comes before it is the thought."""

    text: str
    start: int
    end: int
    unended: bool = False  # the thought does not end, so there is no answer

    @property
    def answer(self) -> str:
        """The reply without its thought: unchanged if it has none, else without spaces around it."""
        return self.text[self.start : self.end]

    @property
    def thinks(self) -> bool:
        """Whether the reply begins with a thought."""
        return self.start > 0 or self.unended


def read_reply(text: str) -> Reading:
    """Where the answer of a reply is.

    The reply may open with one thought or several; with `</think>` alone, in a reply that begins inside a thought,
    everything before it is the thought. Of gpt-oss' channels the last `final` one is the answer. A thought without an
    end is no answer.
    """
    if _CHANNELS.match(text):
        return _final_channel(text)
    # gpt-oss' channels, decoded without special tokens
    if text.startswith("analysis") and (place := text.rfind("assistantfinal")) >= 0:
        return _trimmed(text, place + len("assistantfinal"), len(text))
    start = 0
    while True:
        opened = _OPENING.match(text, start)
        if opened:
            end = _end_of(_CLOSING[opened[1].lower()], text, opened.end())
            if end is None and opened[1].lower() not in _SPOKEN:
                return Reading(text, len(text), len(text), unended=True)
        else:
            end = _end_of_prompts_thought(text, start)
        if end is None:
            break
        start = end
    if start == 0:
        return Reading(text, 0, len(text))
    around = _AROUND.match(text, start)
    if around is None:
        return _trimmed(text, start, len(text))
    closings = [one.start() for one in _CLOSING[around[1].lower()].finditer(text, around.end())]
    return _trimmed(text, around.end(), closings[-1] if closings else len(text))


def answer_of(text: str) -> str:
    """The answer of a reply, which is all of it if it does not think first; empty if the thought does not end."""
    return read_reply(text).answer


def cut_answer(text: str, stops: Sequence[str]) -> str:
    """The reply up to the first of the stops in its answer. A stop within the thought does not end it."""
    found = read_reply(text)
    places = [place for stop in stops if stop and (place := found.answer.find(stop)) >= 0]
    return text[: found.start + min(places)] if places else text


def unended_notice(name: str, unended: int, replies: int) -> list[str]:
    """The notice about thoughts that do not end; empty without any. `name`: of the task, for the message."""
    if not unended:
        return []
    return [
        f"{name}: {unended} of {replies} replies are thoughts that do not end, which is no answer and scored as wrong: "
        "raise max_new_tokens"
    ]


class ReplyText:
    """A sampled reply as text, with the marks of its thought.

    Some tokenizers have these marks as special tokens, which `ChatTemplate.decode` leaves out. A mark with which the
    prompt ends (DeepSeek-R1's opens a thought) is put before the reply, so that the text says by itself what it is.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        tokenizer: Any = getattr(template, "tokenizer", None)  # a template for tests may have none
        self.decode_all: Callable[..., str] | None = getattr(tokenizer, "decode", None)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.marks = {id: one.content for id, one in added.items() if one.special and one.content in _KEPT}

    def __call__(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The reply to a prompt, both as token ids."""
        parts: list[str] = []
        start = 0
        for place, token in enumerate(tokens):
            if int(token) in self.marks:
                parts += [self.template.decode(tokens[start:place]), self.marks[int(token)]]
                start = place + 1
        text = "".join([*parts, self.template.decode(tokens[start:])])
        opening = self._opening(prompt)
        return opening + text if opening and not _OPENING.match(text) else text

    def _opening(self, prompt: Sequence[int]) -> str:
        """The end of the prompt, if it opens a thought; else empty."""
        if self.decode_all is None:
            return ""
        tail = self.decode_all(list(prompt[-_TAIL:]), clean_up_tokenization_spaces=False)
        found = _OPENED_BY_PROMPT.search(tail)
        return found[0] if found else ""


def _final_channel(text: str) -> Reading:
    starts = [one.end() for one in _FINAL_CHANNEL.finditer(text)]
    if not starts:
        return Reading(text, len(text), len(text), unended=True)
    ended = _FINAL_END.search(text, starts[-1])
    return _trimmed(text, starts[-1], ended.start() if ended else len(text))


def _end_of(closing: re.Pattern[str], text: str, start: int) -> int | None:
    """Where the first closing mark after `start` ends, but one in quotes."""
    return next((one.end() for one in closing.finditer(text, start) if not _quoted(one)), None)


def _end_of_prompts_thought(text: str, start: int) -> int | None:
    """Where the first closing mark ends that no opening mark belongs to: of a thought that the prompt opened."""
    depth = 0
    for mark in _MARK.finditer(text, start):
        if _quoted(mark):
            continue
        depth += 1 if mark[1] else -1
        if depth < 0:
            return mark.end()
    return None


def _quoted(mark: re.Match[str]) -> bool:
    around = mark.string[max(0, mark.start() - 1) : mark.start()], mark.string[mark.end() : mark.end() + 1]
    return all(one and one in _QUOTES for one in around)


def _trimmed(text: str, start: int, end: int) -> Reading:
    """The reading whose answer is `text[start:end]` without spaces around it."""
    inner = text[start:end]
    start += len(inner) - len(inner.lstrip())
    return Reading(text, start, start + len(inner.strip()))
