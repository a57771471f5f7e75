"""The only place that turns conversations into tokens and decides which tokens carry loss.

The chat template renders a conversation to text, the text is split where assistant turns begin and end, and each part
is tokenised separately. So a prompt has the same tokens whether a response follows or not (a sampler gets the prompts
of training), and no token merges across the boundary of prompt and response.

Text that looks like a special token (`<|im_end|>` typed by a user) becomes that token, as it does if a rendered chat is
tokenised as one text. Clean such rows if the data is not trusted.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.template_text import begins, switches, template_text
from tutelage.data.thoughts import THOUGHTS, begun_thought, continue_thought, split_thought, thought_of
from tutelage.data.whole_text import MARK, broken_places

# Some templates (Llama 3.2) write today's date into the system turn; a run must not depend on the day it starts.
_TODAY = datetime.datetime(2024, 7, 26)


class PromptTooLongError(TutelageError):
    """A prompt is so long that no response token fits into the length limit."""


class RenderError(TutelageError):
    """A chat template cannot render a row; the message names the row where it is known."""


@dataclass(frozen=True)
class Part:
    """A part of the text that is tokenised separately."""

    text: str
    turn: int | None = None  # the message whose response this is, which carries loss; None: a prompt


class ChatTemplate:
    """A tokenizer with a chat template.

    `template`: "auto" (the tokenizer's own, or else Tulu's), "tulu", or the path of a Jinja file. `generation_eos`: the
    ids at which the model's generation config stops. `thinking`: whether the model may think; by default the template
    decides.

    Raises TutelageError for an unreadable template, for `thinking` without such a switch in the template, and if
    nothing can end an assistant turn.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str = "auto",
        generation_eos: Sequence[int] = (),
        thinking: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.text = template_text(tokenizer, template)
        self.thinking = thinking
        self._switches = {} if thinking is None else dict.fromkeys(switches(self.text), thinking)
        if thinking is not None and not self._switches:
            raise TutelageError(
                f"`thinking: {str(thinking).lower()}`: the chat template has no `enable_thinking`: remove the key, or "
                "set another `chat_template`"
            )
        self._in_parts = self._own_thoughts = False
        self._probe(generation_eos)

    # --- rendering ---------------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of the conversation; with the generation prompt, it ends with the beginning of an assistant turn.

        Raises RenderError if the template cannot render these messages.
        """
        turns = [self._turn(message) for message in messages]
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                tools=list(messages[0].tools) or None,
                tokenize=False,
                chat_template=self.text,
                add_generation_prompt=add_generation_prompt,
                date_string=_TODAY.strftime("%d %b %Y"),
                strftime_now=_TODAY.strftime,
                **self._switches,
            )
        except Exception as error:  # templates raise for roles they refuse, and a user's file may have any error
            raise RenderError(
                f"the chat template cannot render {len(turns)} turns ({', '.join(t['role'] for t in turns)}): "
                f"{' '.join(str(error).split())}; change the data or set `chat_template`"
            ) from error

    def reads(self, key: str) -> bool:
        """Whether the template's text has this key of a message in it."""
        return re.search(rf"\b{re.escape(key)}\b", self.text) is not None

    def _turn(self, message: Message) -> dict[str, Any]:
        """A message for the template: its thought under every name by which templates read one, its content as a list
        of parts if the template reads only these (as those of models that see)."""
        content, thought = message.content, next((message.extra[key] for key in THOUGHTS if key in message.extra), None)
        inline = split_thought(content) if self._own_thoughts and message.role == "assistant" else None
        if inline is not None and thought is None:
            content, thought = inline[2].lstrip("\n"), inline[0].strip()
        written = [{"type": "text", "text": content}] if self._in_parts else content
        return {
            "role": message.role,
            "content": written,
            **dict.fromkeys(THOUGHTS if thought else (), thought),
            **message.extra,
        }

    def parts(self, messages: Sequence[Message], turns: Sequence[int] | None = None) -> list[list[Part]]:
        """Prompts and responses, alternating, of the assistant turns `turns` (default: all with `train`).

        Each turn is as the model would be prompted for it. One list is one sequence; where the template renders the
        turns before a prompt differently than when they were the last ones (some strip earlier thinking), a new list
        begins with that whole prompt. Raises RenderError if the template cannot render a turn.
        """
        sequences: list[list[Part]] = []
        rendered = ""  # the text of the latest sequence
        for k, message in enumerate(messages):
            if message.role != "assistant" or not (message.train if turns is None else k in turns):
                continue
            prompt = self.render(messages[:k], True)
            response = self._response(messages[: k + 1], prompt)
            if not sequences or not prompt.startswith(rendered):
                sequences.append([])
                rendered = ""
            sequences[-1] += [Part(prompt[len(rendered) :]), Part(response, k)]
            rendered = prompt + response
        return sequences

    def _response(self, messages: Sequence[Message], prompt: str) -> str:
        """The text of the last message up to its end of turn, as it follows the prompt."""
        message, turn = messages[-1], self.render(messages, False)
        if turn.startswith(prompt) and turn.endswith(self._tail) and len(turn) >= len(prompt) + len(self._tail):
            return turn[len(prompt) : len(turn) - len(self._after_end)]
        if turn.startswith(prompt):  # such a turn ends otherwise, as calls of tools may
            return self._up_to_end(turn[len(prompt) :])
        end = self._tail[: len(self._tail) - len(self._after_end)]
        begun = begun_thought(prompt)
        if begun is None:  # the template renders a turn differently from its generation prompt: as a sampler would
            return message.content + end
        header = prompt.removesuffix(begun[2])
        body = self._up_to_end(turn[len(header) :]) if turn.startswith(header) else message.content + end
        return continue_thought(begun, body, thought_of(message))

    def _up_to_end(self, text: str) -> str:
        """The text up to the last special token in it, which ends the turn."""
        if text.endswith(self._tail):
            return text[: len(text) - len(self._after_end)]
        ends = [text.rfind(token) + len(token) for token in self._special if token in text]
        return text[: max(ends)] if ends else text

    def prompt_parts(self, messages: Sequence[Message]) -> list[Part]:
        """The text of a sampler's prompt, in the parts in which `parts` has it for the next assistant turn."""
        prompt = self.render(messages, True)
        try:
            earlier = self.parts(messages)[-1:]
        except RenderError:  # only the whole prompt has to be rendered
            earlier = []
        rendered = "".join(part.text for part in earlier[0]) if earlier else ""
        if not earlier or not prompt.startswith(rendered):
            return [Part(prompt)]
        return [*earlier[0], Part(prompt[len(rendered) :])]

    # --- tokens ------------------------------------------------------------------------------------------------------

    def encode(self, conversation: Conversation, index: int, max_length: int) -> TokenSequence:
        """Tokens of the whole conversation, with loss on every assistant turn including its end-of-turn token.

        The sequence ends with the last token that carries loss. A conversation of more than `max_length` tokens is cut
        (`cut=True`): it loses tokens of a response, and later turns. `prompt_length` belongs to the last assistant turn
        that is left, and `ids[:prompt_length]` are the ids of `encode_prompt`. Where the template gives a row several
        sequences (`parts`), this is the last one.

        Raises PromptTooLongError if no response token fits, and TutelageError for a conversation without a response.
        """
        return self.sequences(self.conversation_parts(conversation), conversation, index, max_length)[-1]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """A sampler's input: token ids of messages that end in a user turn, up to the start of the assistant turn."""
        return self.encode_prompts([messages])[0]

    def encode_prompts(self, prompts: Sequence[Sequence[Message]], sources: Sequence[str] = ()) -> list[list[int]]:
        """`encode_prompt` for many prompts in one call of the tokenizer, which uses all cores.

        `sources`: where each prompt is from, for messages.
        """
        if not prompts:
            return []
        rows = []
        for place, messages in enumerate(prompts):
            if messages[-1].role == "assistant":
                raise TutelageError(
                    "a prompt must end in a user turn, not in an assistant turn; leave the last turn out"
                )
            try:
                rows.append(self.prompt_parts(messages))
            except RenderError as error:
                raise RenderError(f"{sources[place]}: {error}" if sources else str(error)) from error
        tokens = iter(self.tokens([part for parts in rows for part in parts]))
        return [[token for _ in parts for token in next(tokens)] for parts in rows]

    def conversation_parts(self, conversation: Conversation) -> list[list[Part]]:
        """`parts` of a row. Raises RenderError that names it, and TutelageError for a row without a response."""
        if conversation.response is None:
            raise TutelageError(f"{conversation.source}: no reply to train on; give the row an assistant turn")
        if conversation.plain:
            return [[Part(conversation.messages[0].content, 0)]]
        try:
            return self.parts(conversation.messages)
        except RenderError as error:
            raise RenderError(f"{conversation.source}: {error}") from error

    def sequences(
        self, parts: list[list[Part]], conversation: Conversation, index: int, max_length: int, tokens: Any = None
    ) -> list[TokenSequence]:
        """The sequences of `parts`, which are the conversation's. `tokens`: an iterator over the tokens of each part.

        Those whose prompt leaves no room are left out; the last one left is then `cut`. Raises PromptTooLongError if
        none is left.
        """
        tokens = iter(self.tokens([part for one in parts for part in one])) if tokens is None else tokens
        tokenised = [[(part.turn, next(tokens)) for part in one] for one in parts]
        if conversation.plain:
            tokenised = [self._text_pieces(tokenised[0][0][1])]
        out: list[TokenSequence] = []
        first: PromptTooLongError | None = None
        for pieces in tokenised:
            try:
                out.append(replace(_assemble(pieces, index, max_length, conversation.source), part=len(out)))
            except PromptTooLongError as error:
                first = first or error
        if first is not None and not out:
            raise first
        if tokenised[-1][-1][0] != out[-1].turns[-1]:
            out[-1] = replace(out[-1], cut=True)
        return out

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response, without special tokens, end-of-turn ids and tokens that hold a part of a character
        (`whole_text.py`): cut within one, it ends before it."""
        kept = [int(token) for token in ids if int(token) not in self.end_of_turn_ids]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        text = self.tokenizer.decode(kept, **options)
        if MARK not in text:
            return text
        broken = set(broken_places(self.tokenizer, kept))
        return self.tokenizer.decode([token for place, token in enumerate(kept) if place not in broken], **options)

    def is_text(self, ids: Sequence[int], finished: bool) -> bool:
        """Whether the tokens of a response are whole characters; one cut at its length limit may end within one."""
        kept = [int(token) for token in ids if int(token) not in self.end_of_turn_ids]
        broken = broken_places(self.tokenizer, kept)
        return not broken or (not finished and broken == list(range(broken[0], len(kept))))

    @property
    def end_of_turn_id(self) -> int:
        """The token with which the template ends an assistant turn, or the tokenizer's eos if it has none."""
        return self.end_of_turn_ids[0]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the template, the tokenizer's vocabulary and rules, and the end-of-turn ids."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            rules = {"vocabulary": self.tokenizer.get_vocab(), "kind": type(self.tokenizer).__name__}
            digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
        else:
            digest = _rules_digest(backend.to_str())
        chosen = [] if self.thinking is None else [self.thinking]
        return fingerprint(self.text, digest, self.tokenizer.special_tokens_map, self.end_of_turn_ids, *chosen)

    def _text_pieces(self, ids: list[int]) -> list[tuple[int | None, list[int]]]:
        """Plain text: its first token, which nothing predicts, then all later ones and the end token, with loss."""
        ended = ids if self._append_end else [*ids, self._text_end]
        start = [self.tokenizer.bos_token_id] if self._begins else ended[:1]
        return [(None, start), (0, ended if self._begins else ended[1:])]

    def tokens(self, parts: Sequence[Part]) -> list[list[int]]:
        """Token ids of each part; a response gets its end token if the template has none."""
        # Llama 2's kind of tokenizer puts a space before every text, but a response after a prompt must not have one:
        # it is tokenised after a line break, whose tokens are then removed.
        anchors = [() if part.turn is None else self._anchor for part in parts]
        texts = ["\n" + part.text if anchor else part.text for part, anchor in zip(parts, anchors, strict=True)]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        out = []
        for part, anchor, ids in zip(parts, anchors, encoded, strict=True):
            if anchor and tuple(ids[: len(anchor)]) != anchor:  # merged with the line break
                ids, anchor = self._ids(part.text), ()
            ids = list(ids[len(anchor) :])
            out.append([*ids, self.end_of_turn_id] if part.turn is not None and self._append_end else ids)
        return out

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _new_ids(self, longer: str, shorter: str) -> list[int]:
        """The tokens of `longer` after its common prefix with `shorter`."""
        ids = self._ids(longer)
        common = takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._ids(shorter), strict=False))
        return ids[len(list(common)) :]

    # --- properties of the template, found with a probe ---------------------------------------------------------------

    def _writes(self, text: str, *messages: Message) -> bool:
        """Whether the template can render the messages, and the text is in them."""
        try:
            return text in self.render(messages, False)
        except RenderError:
            return False

    def _probe(self, generation_eos: Sequence[int]) -> None:
        """Find the text after an assistant turn's content (`_tail`; `_after_end` is its part after the end token) and
        the end-of-turn ids."""
        ask, reply, again = Message("user", "ProbeOne"), Message("assistant", "ProbeTwo"), Message("user", "ProbeThree")
        self._in_parts = not self._writes("ProbeTwo", ask, reply)
        self._in_parts = self._in_parts and self._writes("ProbeTwo", ask, reply)
        inline = replace(reply, content="<think>\nProbeFour\n</think>\n\nProbeTwo")
        apart = replace(reply, extra={THOUGHTS[0]: "ProbeFour"})
        if self._writes("ProbeFour", ask, apart) and self._writes("<think>", ask, inline):
            tags = [self.render([ask, form], False).count("<think>") for form in (inline, apart)]
            self._own_thoughts = tags[0] > tags[1]  # it reads a thought only in a key of its own
        closed, continued = self.render([ask, reply], False), self.render([ask, reply, again], False)
        self._tail = closed.partition(reply.content)[2]
        special = set(self.tokenizer.added_tokens_decoder) | set(self.tokenizer.all_special_ids)
        self._special = tuple(t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special)
        end = next((token for token in self._ids(self._tail) if token in special), None)
        # Special tokens that a new turn of user or assistant brings start turns.
        user_turn = self._new_ids(continued.partition(again.content)[0], closed)
        assistant_turn = self._new_ids(self.render([ask], True), self.render([ask], False))
        starts = {*user_turn, *assistant_turn} & special - {end}
        # A tokenizer may declare the start of a turn as its eos (SmolLM2 as GGUF): sampling would stop at once.
        eos = [t for t in (self.tokenizer.eos_token_id, *generation_eos) if t is not None and t not in starts]
        if end is None and not eos:
            raise TutelageError(
                "nothing ends an assistant turn: the chat template writes no special token after it and the tokenizer "
                "has no eos token; set `chat_template` to one with an end token, or set the tokenizer's eos_token"
            )
        self._begins = begins(self.tokenizer)
        spaced = self.tokenizer.convert_ids_to_tokens(self._ids("a"))[0].startswith("\u2581")
        self._anchor = tuple(self._ids("\n")) if spaced else ()
        self._append_end = end is None
        self._text_end = eos[0] if eos else end
        self.end_of_turn_ids = tuple(dict.fromkeys(eos if end is None else [end, *eos]))
        written = "" if end is None else self.tokenizer.convert_ids_to_tokens(end)
        self._after_end = self._tail.partition(written)[2] if written else self._tail


def _assemble(pieces: list[tuple[int | None, list[int]]], index: int, max_length: int, source: str) -> TokenSequence:
    """Join tokenised parts into a sequence of at most `max_length` tokens, cut at the end."""
    ids: list[int] = []
    mask: list[bool] = []
    turns: list[int] = []
    prompt_length, kept = 0, 0  # up to the last assistant turn that has a token within the limit
    for turn, tokens in pieces:
        if turn is not None and (len(ids) < max_length or not kept):
            prompt_length, kept = len(ids), min(len(ids) + len(tokens), max_length)
            turns.append(turn)
        ids += tokens
        mask += [turn is not None] * len(tokens)
    if prompt_length >= max_length:
        raise PromptTooLongError(
            f"{source}: prompt has {prompt_length} tokens, max_length is {max_length}: "
            "drop the row, or raise training.max_length if the model reads more"
        )
    return TokenSequence(
        index,
        torch.tensor(ids[:kept], dtype=torch.int64),
        torch.tensor(mask[:kept], dtype=torch.bool),
        prompt_length,
        cut=kept < len(ids),
        turns=tuple(turns),
    )


@lru_cache(maxsize=4)  # the models of a recipe share a tokenizer, and reading its megabytes takes a third of a second
def _rules_digest(rules: str) -> str:
    """A hash of a tokenizer as JSON, without the state of its latest call."""
    content = json.loads(rules)
    for state in ("truncation", "padding"):
        content.pop(state, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
