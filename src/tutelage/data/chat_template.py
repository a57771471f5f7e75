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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.dataset import LoadedData, check_bad_rows
from tutelage.data.rows import BadRow
from tutelage.data.whole_text import MARK, broken_places

TULU = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif -%}
{%- if not (loop.last and message['role'] == 'assistant') %}{{ '\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif -%}
"""
# Some templates (Llama 3.2) write today's date into the system turn; a run must not depend on the day it starts.
_TODAY = datetime.datetime(2024, 7, 26)


class PromptTooLongError(TutelageError):
    """A prompt is so long that no response token fits into the length limit."""


@dataclass(frozen=True)
class EncodingReport:
    """What `encode_all` cut or left out."""

    cut: int  # sequences whose response was cut at the length limit
    too_long: tuple[str, ...]  # sources of the rows left out because no response token fits


@dataclass(frozen=True)
class _Part:
    """A part of the text that is tokenised separately; `response`: it carries loss."""

    text: str
    response: bool


class ChatTemplate:
    """A tokenizer with a chat template.

    `template`: "auto" (the tokenizer's own, or else Tulu's), "tulu", or the path of a Jinja file. `generation_eos`: the
    ids at which the model's generation config stops.

    Raises TutelageError for an unreadable template, and if nothing can end an assistant turn.
    """

    def __init__(self, tokenizer: Any, template: str = "auto", generation_eos: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.text = _template_text(tokenizer, template)
        self._probe(generation_eos)

    # --- rendering ---------------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of the conversation; with the generation prompt, it ends with the beginning of an assistant turn.

        Raises TutelageError if the template cannot render these messages.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                chat_template=self.text,
                add_generation_prompt=add_generation_prompt,
                date_string=_TODAY.strftime("%d %b %Y"),
                strftime_now=_TODAY.strftime,
            )
        except Exception as error:  # templates raise for roles they refuse, and a user's file may have any error
            raise TutelageError(
                f"the chat template cannot render {len(turns)} turns ({', '.join(t['role'] for t in turns)}): "
                f"{' '.join(str(error).split())}; change the data or set `chat_template`"
            ) from error

    def _parts(self, messages: Sequence[Message], source: str) -> list[_Part]:
        """Prompts and responses, alternating; the last part is a prompt if the last message is the user's."""
        parts: list[_Part] = []
        rendered = ""  # the text of the parts so far
        for k, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self.render(messages[:k], True)
            self._check_stable(prompt, rendered, k, source)
            turn = self.render(messages[: k + 1], False)
            if turn.startswith(prompt) and turn.endswith(self._tail) and len(turn) >= len(prompt) + len(self._tail):
                response = turn[len(prompt) : len(turn) - len(self._after_end)]
            else:  # the template renders a turn differently from its generation prompt: render it as a sampler would
                response = message.content + self._tail[: len(self._tail) - len(self._after_end)]
            parts += [_Part(prompt[len(rendered) :], False), _Part(response, True)]
            rendered = prompt + response
        if messages[-1].role != "assistant":
            prompt = self.render(messages, True)
            self._check_stable(prompt, rendered, len(messages), source)
            parts.append(_Part(prompt[len(rendered) :], False))
        return parts

    def _check_stable(self, prompt: str, rendered: str, turn: int, source: str) -> None:
        """Raise TutelageError if the template changes earlier turns when more turns follow."""
        if not prompt.startswith(rendered):
            raise TutelageError(
                f"{source or 'prompt'}: the chat template renders the turns before turn {turn + 1} differently in "
                "longer chats (some strip earlier thinking); set `chat_template` to another, or use single-turn rows"
            )

    # --- tokens ------------------------------------------------------------------------------------------------------

    def encode(self, conversation: Conversation, index: int, max_length: int) -> TokenSequence:
        """Tokens of the whole conversation, with loss on every assistant turn including its end-of-turn token.

        The sequence ends with the last token that carries loss. A conversation of more than `max_length` tokens is cut
        (`cut=True`): it loses tokens of a response, and later turns. `prompt_length` belongs to the last assistant turn
        that is left, and `ids[:prompt_length]` are the ids of `encode_prompt`.

        Raises PromptTooLongError if no response token fits, and TutelageError for a conversation without a response and
        for a template that changes earlier turns when more follow.
        """
        return self._encode_many([conversation], [index], max_length)[0]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """A sampler's input: token ids of messages that end in a user turn, up to the start of the assistant turn."""
        return self.encode_prompts([messages])[0]

    def encode_prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """`encode_prompt` for many prompts in one call of the tokenizer, which uses all cores."""
        if not prompts:
            return []
        rows = [self._parts(messages, "") for messages in prompts]
        if any(parts[-1].response for parts in rows):
            raise TutelageError("a prompt must end in a user turn, not in an assistant turn; leave the last turn out")
        tokens = iter(self._tokens([part for parts in rows for part in parts]))
        return [[token for _ in parts for token in next(tokens)] for parts in rows]

    def prompt_parts(self, conversations: Sequence[Conversation]) -> list[list[list[int]]]:
        """Per conversation, the token ids of the text before each of its assistant turns, in order."""
        rows = [[p for p in self._parts(c.messages, c.source) if not p.response] for c in conversations]
        tokens = iter(self._tokens([part for parts in rows for part in parts]))
        return [[next(tokens) for _ in parts] for parts in rows]

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
        else:
            rules = json.loads(backend.to_str())
            for state in ("truncation", "padding"):  # state of the tokenizer's latest call
                rules.pop(state, None)
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
        return fingerprint(self.text, digest, self.tokenizer.special_tokens_map, self.end_of_turn_ids)

    def _encode_many(
        self,
        conversations: Sequence[Conversation],
        indices: Sequence[int],
        max_length: int,
        too_long: list[BadRow] | None = None,
    ) -> list[TokenSequence]:
        """`encode` for many conversations in one call of the tokenizer; too long ones go to `too_long` if given."""
        rows = []
        for conversation in conversations:
            if conversation.response is None:
                raise TutelageError(f"{conversation.source}: no reply to train on; give the row an assistant turn")
            if conversation.plain:
                rows.append([_Part(conversation.messages[0].content, True)])
            else:
                rows.append(self._parts(conversation.messages, conversation.source))
        tokens = iter(self._tokens([part for parts in rows for part in parts]))
        out = []
        for conversation, index, parts in zip(conversations, indices, rows, strict=True):
            try:
                pieces = [(part.response, next(tokens)) for part in parts]
                if conversation.plain:
                    pieces = self._text_pieces(pieces[0][1])
                out.append(_assemble(pieces, index, max_length, conversation.source))
            except PromptTooLongError as error:
                if too_long is None:
                    raise
                too_long.append(BadRow(conversation.source, str(error).removeprefix(f"{conversation.source}: ")))
        return out

    def _text_pieces(self, ids: list[int]) -> list[tuple[bool, list[int]]]:
        """Plain text: its first token, which nothing predicts, then all later ones and the end token, with loss."""
        ended = ids if self._append_end else [*ids, self._text_end]
        start = [self.tokenizer.bos_token_id] if self._begins else ended[:1]
        return [(False, start), (True, ended if self._begins else ended[1:])]

    def _tokens(self, parts: Sequence[_Part]) -> list[list[int]]:
        """Token ids of each part; a response gets its end token if the template has none."""
        # Llama 2's kind of tokenizer puts a space before every text, but a response after a prompt must not have one:
        # it is tokenised after a line break, whose tokens are then removed.
        anchors = [self._anchor if part.response else () for part in parts]
        texts = ["\n" + part.text if anchor else part.text for part, anchor in zip(parts, anchors, strict=True)]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        out = []
        for part, anchor, ids in zip(parts, anchors, encoded, strict=True):
            if anchor and tuple(ids[: len(anchor)]) != anchor:  # merged with the line break
                ids, anchor = self._ids(part.text), ()
            ids = list(ids[len(anchor) :])
            out.append([*ids, self.end_of_turn_id] if part.response and self._append_end else ids)
        return out

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _new_ids(self, longer: str, shorter: str) -> list[int]:
        """The tokens of `longer` after its common prefix with `shorter`."""
        ids = self._ids(longer)
        common = takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._ids(shorter), strict=False))
        return ids[len(list(common)) :]

    # --- properties of the template, found with a probe ---------------------------------------------------------------

    def _probe(self, generation_eos: Sequence[int]) -> None:
        """Find the text after an assistant turn's content (`_tail`; `_after_end` is its part after the end token) and
        the end-of-turn ids."""
        ask, reply, again = Message("user", "ProbeOne"), Message("assistant", "ProbeTwo"), Message("user", "ProbeThree")
        closed, continued = self.render([ask, reply], False), self.render([ask, reply, again], False)
        self._tail = closed.partition(reply.content)[2]
        special = set(self.tokenizer.added_tokens_decoder) | set(self.tokenizer.all_special_ids)
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
        self._begins = _begins(self.tokenizer)
        spaced = self.tokenizer.convert_ids_to_tokens(self._ids("a"))[0].startswith("\u2581")
        self._anchor = tuple(self._ids("\n")) if spaced else ()
        self._append_end = end is None
        self._text_end = eos[0] if eos else end
        self.end_of_turn_ids = tuple(dict.fromkeys(eos if end is None else [end, *eos]))
        written = "" if end is None else self.tokenizer.convert_ids_to_tokens(end)
        self._after_end = self._tail.partition(written)[2] if written else self._tail


def encode_all(
    template: ChatTemplate, data: LoadedData, max_length: int, max_bad_rows: float = 0.01, key: str = "data"
) -> tuple[list[TokenSequence], EncodingReport]:
    """Encode every conversation; `index` is its position in `data.conversations`.

    Rows whose prompt leaves no room for a response within `max_length` tokens are left out and listed. Raises
    TutelageError if their share exceeds `max_bad_rows` (`key` names the data section in the message), or if no row is
    left.
    """
    from rich.console import Console
    from rich.progress import track

    rows, size = data.conversations, 500  # rows per tokenizer call
    starts = range(0, len(rows), size)
    out: list[TokenSequence] = []
    bad: list[BadRow] = []
    quiet = len(rows) < 5000  # takes a second or two
    for start in track(starts, "tokenising", console=Console(stderr=True), transient=True, disable=quiet):
        chunk = rows[start : start + size]
        out += template._encode_many(chunk, range(start, start + len(chunk)), max_length, bad)
    check_bad_rows(key, bad, len(rows), max_bad_rows)
    if not out:
        raise TutelageError(f"{key}: no row fits: {bad[0].source}: {bad[0].reason}" if bad else f"{key}: has no rows")
    return out, EncodingReport(sum(sequence.cut for sequence in out), tuple(row.source for row in bad))


def messages_asked(conversation: Conversation, sequence: TokenSequence) -> tuple[Message, ...]:
    """The messages before the last assistant turn of `sequence`, which may be cut: what `ids[:prompt_length]` says.

    For a conversation cut at the length limit this is an earlier question than `conversation.prompt`.
    """
    mask = sequence.loss_mask.long()
    turns = int((mask.diff(prepend=mask.new_zeros(1)) == 1).sum())  # assistant turns that are left
    places = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    return conversation.messages[: places[turns - 1]]


def _assemble(pieces: list[tuple[bool, list[int]]], index: int, max_length: int, source: str) -> TokenSequence:
    """Join tokenised parts into a sequence of at most `max_length` tokens, cut at the end."""
    ids: list[int] = []
    mask: list[bool] = []
    prompt_length, kept = 0, 0  # up to the last assistant turn that has a token within the limit
    for response, tokens in pieces:
        if response and (len(ids) < max_length or not kept):
            prompt_length, kept = len(ids), min(len(ids) + len(tokens), max_length)
        ids += tokens
        mask += [response] * len(tokens)
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
    )


def _template_text(tokenizer: Any, template: str) -> str:
    """The Jinja text of the template that `template` names."""
    if template == "auto" and tokenizer.chat_template is not None:
        return tokenizer.get_chat_template()  # of several named ones, the default
    if template in ("auto", "tulu"):
        return ("{{- bos_token -}}\n" if _begins(tokenizer) else "") + TULU
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TutelageError(
            f"chat_template: cannot read `{template}`: {error}; give auto, tulu or the path of a Jinja file"
        ) from error


def _begins(tokenizer: Any) -> bool:
    """Whether the tokenizer starts every text with its bos token (Llama, Gemma): the model then always needs it."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
