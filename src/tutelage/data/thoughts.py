"""Thoughts in text: `<think>…</think>` before an answer, and generation prompts that already open or close one."""

from __future__ import annotations

import re

from tutelage.common.types import Message

THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # keys of a turn's thought, by the templates that read them
# Names of tags: Qwen 3, DeepSeek-R1, SmolLM3, Phi 4, Granite 3.3 and others write <think>; Seed-OSS <seed:think>.
_TAGS = ("think", "thinking", "thought", "reasoning", "seed:think")
PAIRS = {f"<{tag}>": f"</{tag}>" for tag in _TAGS} | {  # the marks in which a thought begins and ends
    "[THINK]": "[/THINK]",  # Mistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "◁think▷": "◁/think▷",  # Kimi
    "<|channel>thought": "<channel|>",  # Gemma
}


def split_thought(text: str) -> tuple[str, str, str] | None:
    """The thought at the beginning of a turn, the closing tag and what follows, or None; the opening may be missing."""
    for opening, closing in PAIRS.items():
        before, found, answer = text.partition(closing)
        if found:
            return before.lstrip().removeprefix(opening).lstrip("\n"), closing, answer
    return None


def thought_of(message: Message) -> str:
    """The thought of a turn: of a key of its own, or of the beginning of its content; empty if it has none."""
    own = next((str(message.extra[key]) for key in THOUGHTS if key in message.extra), "")
    found = split_thought(message.content)
    return own or (found[0].strip() if found else "")


def begun_thought(prompt: str) -> tuple[str, str, str] | None:
    """The opening tag, the closing one and the text of the thought with which a prompt ends, whether still open
    (`<think>\\n`) or empty and closed (`<think>\\n\\n</think>\\n\\n`); None if it ends otherwise."""
    for opening, closing in PAIRS.items():
        match = re.search(rf"{re.escape(opening)}\s*(?:{re.escape(closing)}\s*)?$", prompt)
        if match is not None:
            return opening, closing, match[0]
    return None


def continue_thought(begun: tuple[str, str, str], turn: str, thought: str) -> str:
    """The turn as it follows a prompt that has begun a thought: no second opening, and no thought that never ends.

    `turn`: the turn without its header; `thought`: the row's thought, used if the turn has none. After a thought that
    the prompt has closed, only the answer is left.
    """
    _, closing, text = begun
    found = split_thought(turn)
    if closing in text:
        return (turn if found is None else found[2]).lstrip("\n")
    return f"{thought.strip()}\n{closing}\n\n{turn.lstrip()}" if found is None else "".join(found)
