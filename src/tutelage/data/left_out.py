"""What a row carries and its token sequences do not: found by looking for it in the text that was rendered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tutelage.common.types import Conversation, Message
from tutelage.data.chat_template import ChatTemplate, Part
from tutelage.data.thoughts import THOUGHTS, begun_thought, split_thought, thought_of

_NAMES = {"name", "id", "tool_call_id", "tool_calls", *THOUGHTS}  # keys that need no word, or have one of their own


def left_out(
    template: ChatTemplate, conversation: Conversation, sequences: Sequence[Sequence[Part]] | None = None
) -> set[str]:
    """What the conversation carries and its `sequences` do not, in words; each thing once. By default: of its prompt.

    Counted as well are empty thoughts that were added, and turns that carry no loss because the row says so. Raises
    RenderError as `ChatTemplate.render` does.
    """
    if conversation.plain:
        return set(conversation.remarks)
    messages = conversation.messages if sequences is not None else conversation.prompt
    sequences = [template.prompt_parts(messages)] if sequences is None else sequences
    found = set(conversation.remarks)
    pairs = {part.turn: (part.text, one[k - 1].text) for one in sequences for k, part in enumerate(one) if part.turn}
    last = max(pairs) if messages[-1].role == "assistant" else len(messages) - 1
    text = "".join(part.text for part in sequences[-1])
    for place, message in enumerate(messages[: last + 1]):
        found.update(_of_keys(template, message))
        if place in pairs:
            found.update(_of_response(message, *pairs[place]))
        elif message.role == "assistant" and not message.train:
            found.add("assistant turns with `weight: 0` or `train: false` (no loss)")
        elif message.role != "assistant" and _is_ignored(template, messages[: last + 1], place, text):
            found.add(f"{message.role} turns (not written by the chat template)")
        found.update(_of_calls(message, pairs.get(place, (text,))[0]))
    if last + 1 < len(messages):
        found.add("turns after the last one that carries loss (not used)")
    if messages[0].tools and _same_without_tools(template, messages[: last + (messages[last].role != "assistant")]):
        found.add("`tools` (not written by the chat template)")
    return found


def beside_texts(conversation: Conversation) -> set[str]:
    """The keys of the conversation's turns beside role and content, and `tools` if it offers any."""
    keys = {key for message in conversation.messages for key in message.extra}
    return keys | {"tools"} if conversation.messages[0].tools else keys


def _of_keys(template: ChatTemplate, message: Message) -> Iterator[str]:
    for key in message.extra:
        if key not in _NAMES and not template.reads(key):
            yield f"key `{key}` of a message (not read)"


def _of_response(message: Message, response: str, prompt: str) -> Iterator[str]:
    """What of an assistant turn is not in the response that is learnt, and what was added to it."""
    thought, begun = thought_of(message), begun_thought(prompt)
    if thought and not _written(thought, response):
        own = next((f"`{key}`" for key in THOUGHTS if key in message.extra), "thoughts")
        yield f"{own} (not written by the chat template)"
    if not thought and begun is not None and begun[1] not in begun[2]:
        yield "rows without a thought where the prompt begins one (an empty thought is learnt)"
    parts = split_thought(message.content)
    if not _written(message.content if parts is None else parts[2], response):
        yield "text of assistant turns (changed by the chat template)"


def _of_calls(message: Message, text: str) -> Iterator[str]:
    if not all(_written(call["function"]["name"], text) for call in message.extra.get("tool_calls", ())):
        yield "`tool_calls` (not written by the chat template)"


def _written(content: str, text: str) -> bool:
    """Whether the content is in the text, as it is or as JSON writes it; spaces around it do not count."""
    content = content.strip()
    return content in text or any(json.dumps(content, ensure_ascii=a)[1:-1] in text for a in (False, True))


def _is_ignored(template: ChatTemplate, messages: Sequence[Message], place: int, text: str) -> bool:
    """Whether this message is not in the text, and another content of it gives the same text."""
    if _written(messages[place].content, text):
        return False
    other = [*messages[:place], replace(messages[place], content="ProbeOther"), *messages[place + 1 :]]
    return template.render(messages, False) == template.render(other, False)


def _same_without_tools(template: ChatTemplate, messages: Sequence[Message]) -> bool:
    return template.render(messages, True) == template.render([replace(messages[0], tools=()), *messages[1:]], True)
