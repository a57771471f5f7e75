"""The only place that turns conversations into tokens, and says which of them carry loss.

A conversation is rendered to text by the chat template, the text is parted where assistant turns begin and end, and
each part is tokenised on its own. So the tokens of a prompt are the same whether a response follows or not: what a
sampler is given is what training saw, and no token merges across the border of prompt and response.

Text that looks like a special token (`<|im_end|>` typed by a user) becomes that token, as it does wherever a chat
template is tokenised as one text; clean such rows if the data is not trusted.
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

TULU = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif -%}
{%- if not (loop.last and message['role'] == 'assistant') %}{{ '\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif -%}
"""
# Some templates (Llama 3.2) write today's date into the system turn; a run must not depend on the day it is started.
_TODAY = datetime.datetime(2024, 7, 26)


class PromptTooLongError(TutelageError):
    """A prompt leaves no room for a single response token."""


@dataclass(frozen=True)
class EncodingReport:
    cut: int  # sequences whose response was cut at the length limit
    too_long: tuple[str, ...]  # sources of the rows left out because their prompt fills the limit


@dataclass(frozen=True)
class _Part:
    """A stretch of text that is tokenised on its own; `response`: it carries loss."""

    text: str
    response: bool


class ChatTemplate:
    """A tokenizer with its chat template."""

    def __init__(self, tokenizer: Any, template: str = "auto", generation_eos: Sequence[int] = ()) -> None:
        """`template`: auto (the tokenizer's own, else Tulu's), tulu, or a path of a Jinja file.
        `generation_eos`: ids that the model's generation config stops at.

        Raises TutelageError for an unreadable template, and when nothing can end an assistant turn.
        """
        self.tokenizer = tokenizer
        self.text = _template_text(tokenizer, template)
        self._probe(generation_eos)

    # --- rendering ---------------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The conversation as the model reads it; with the generation prompt an assistant turn is opened at the end."""
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
        except Exception as error:  # templates refuse roles by raising, and a user's file may hold any mistake
            raise TutelageError(
                f"the chat template cannot render {len(turns)} turns ({', '.join(t['role'] for t in turns)}): "
                f"{' '.join(str(error).split())}; change the data or set `chat_template`"
            ) from error

    def _parts(self, messages: Sequence[Message], source: str) -> list[_Part]:
        """Prompt and response texts in turn; ends in a prompt when the last turn is the user's, else in a response."""
        parts: list[_Part] = []
        done = ""  # what the parts so far render to
        for k, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opened = self.render(messages[:k], True)
            self._check_stable(opened, done, k, source)
            turn = self.render(messages[: k + 1], False)
            if turn.startswith(opened) and turn.endswith(self._tail) and len(turn) >= len(opened) + len(self._tail):
                response = turn[len(opened) : len(turn) - len(self._rest)]
            else:  # a template whose generation prompt is not how it renders a turn: write the turn as a sampler would
                response = message.content + self._tail[: len(self._tail) - len(self._rest)]
            parts += [_Part(opened[len(done) :], False), _Part(response, True)]
            done = opened + response
        if messages[-1].role != "assistant":
            opened = self.render(messages, True)
            self._check_stable(opened, done, len(messages), source)
            parts.append(_Part(opened[len(done) :], False))
        return parts

    def _check_stable(self, opened: str, done: str, turn: int, source: str) -> None:
        if not opened.startswith(done):
            raise TutelageError(
                f"{source or 'prompt'}: the chat template renders the turns before turn {turn + 1} differently in "
                "longer chats (some strip earlier thinking); set `chat_template` to another, or use single-turn rows"
            )

    # --- tokens ------------------------------------------------------------------------------------------------------

    def encode(self, conversation: Conversation, index: int, max_length: int) -> TokenSequence:
        """Tokens of the whole conversation, with loss on every assistant turn up to its end-of-turn token.

        The sequence ends with the last token that carries loss. Over-long rows lose their end (`cut=True`): tokens of
        the response, or whole later turns, so that `prompt_length` is that of the last assistant turn still there.
        `ids[:prompt_length]` are the ids of `encode_prompt`.

        Raises PromptTooLongError when the prompt leaves no room for a response token, TutelageError for a bare prompt
        and for a template that renders earlier turns differently later.
        """
        return self._encode_many([conversation], [index], max_length)[0]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation that ends in a user turn, with the assistant turn opened: a sampler's input."""
        return self.encode_prompts([messages])[0]

    def encode_prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """`encode_prompt` for many at once: one call of the tokenizer, which uses all cores."""
        if not prompts:
            return []
        rows = [self._parts(messages, "") for messages in prompts]
        if any(parts[-1].response for parts in rows):
            raise TutelageError("a prompt must end in a user turn, not in an assistant turn; leave the last turn out")
        tokens = iter(self._tokens([part for parts in rows for part in parts]))
        return [[token for _ in parts for token in next(tokens)] for parts in rows]

    def prompt_parts(self, conversations: Sequence[Conversation]) -> list[list[list[int]]]:
        """For each conversation the tokens of what stands before each of its assistant turns, in turn."""
        rows = [[p for p in self._parts(c.messages, c.source) if not p.response] for c in conversations]
        tokens = iter(self._tokens([part for parts in rows for part in parts]))
        return [[next(tokens) for _ in parts] for parts in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response, without special tokens and without the ids that end a turn."""
        kept = [int(token) for token in ids if int(token) not in self.end_of_turn_ids]
        return self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @property
    def end_of_turn_id(self) -> int:
        """The token that the template ends an assistant turn with; the tokenizer's eos where it has none."""
        return self.end_of_turn_ids[0]

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the template, the tokenizer's vocabulary and rules, and the ids that end a turn."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            rules = {"vocabulary": self.tokenizer.get_vocab(), "kind": type(self.tokenizer).__name__}
        else:
            rules = json.loads(backend.to_str())
            for state in ("truncation", "padding"):  # left behind by the latest call
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
        """`encode` for many at once: one call of the tokenizer. Too long ones go to `too_long` where it is given."""
        rows = []
        for conversation in conversations:
            if conversation.response is None:
                raise TutelageError(f"{conversation.source}: no reply to learn from; give the row an assistant turn")
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
        """A text's first token, which nothing predicts, then all others with the end."""
        ended = ids if self._append_end else [*ids, self._text_end]
        start = [self.tokenizer.bos_token_id] if self._begins else ended[:1]
        return [(False, start), (True, ended if self._begins else ended[1:])]

    def _tokens(self, parts: Sequence[_Part]) -> list[list[int]]:
        # Tokenizers of the older Llama kind put a space before every text; a response that goes on after a prompt has
        # none, so it is tokenised behind a line break that is taken away again.
        anchor = [self._anchor if part.response else () for part in parts]
        texts = ["\n" + part.text if mark else part.text for part, mark in zip(parts, anchor, strict=True)]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        out = []
        for part, mark, ids in zip(parts, anchor, encoded, strict=True):
            if mark and tuple(ids[: len(mark)]) != mark:  # merged with the line break
                ids, mark = self._ids(part.text), ()
            ids = list(ids[len(mark) :])
            out.append([*ids, self.end_of_turn_id] if part.response and self._append_end else ids)
        return out

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _new_ids(self, longer: str, shorter: str) -> list[int]:
        """Tokens of `longer` after those it begins with in common with `shorter`."""
        ids = self._ids(longer)
        common = takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._ids(shorter), strict=False))
        return ids[len(list(common)) :]

    # --- what the template does, found out with a probe --------------------------------------------------------------

    def _probe(self, generation_eos: Sequence[int]) -> None:
        """Find what follows an assistant turn's content (`_tail`, of which `_rest` comes after the end token), and the
        ids that end a turn."""
        ask, reply, again = Message("user", "ProbeOne"), Message("assistant", "ProbeTwo"), Message("user", "ProbeThree")
        closed, continued = self.render([ask, reply], False), self.render([ask, reply, again], False)
        self._tail = closed.partition(reply.content)[2]
        special = set(self.tokenizer.added_tokens_decoder) | set(self.tokenizer.all_special_ids)
        end = next((token for token in self._ids(self._tail) if token in special), None)
        # Special tokens that come with a new turn of the user or of the assistant start turns.
        user_turn = self._new_ids(continued.partition(again.content)[0], closed)
        assistant_turn = self._new_ids(self.render([ask], True), self.render([ask], False))
        starts = {*user_turn, *assistant_turn} & special - {end}
        # A tokenizer may wrongly call the start of a turn its eos (SmolLM2 as GGUF): sampling would never get going.
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
        self._rest = self._tail.partition(written)[2] if written else self._tail


def encode_all(
    template: ChatTemplate, data: LoadedData, max_length: int, max_bad_rows: float = 0.01, key: str = "data"
) -> tuple[list[TokenSequence], EncodingReport]:
    """Encode every conversation; `index` is its position in `data.conversations`.

    Rows whose prompt fills `max_length` are left out and listed. Raises TutelageError when their share exceeds
    `max_bad_rows` (`key` names the data section then), or when no row is left.
    """
    from rich.console import Console
    from rich.progress import track

    rows, size = data.conversations, 500  # rows a tokenizer call
    starts = range(0, len(rows), size)
    out: list[TokenSequence] = []
    bad: list[BadRow] = []
    quiet = len(rows) < 5000  # a second or two
    for start in track(starts, "tokenising", console=Console(stderr=True), transient=True, disable=quiet):
        chunk = rows[start : start + size]
        out += template._encode_many(chunk, range(start, start + len(chunk)), max_length, bad)
    check_bad_rows(key, bad, len(rows), max_bad_rows)
    if not out:
        raise TutelageError(f"{key}: no row fits: {bad[0].source}: {bad[0].reason}" if bad else f"{key}: has no rows")
    return out, EncodingReport(sum(sequence.cut for sequence in out), tuple(row.source for row in bad))


def _assemble(pieces: list[tuple[bool, list[int]]], index: int, max_length: int, source: str) -> TokenSequence:
    """Join tokenised parts; keep whole turns and then tokens from the front while they fit."""
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
            "raise training.max_length or drop the row"
        )
    return TokenSequence(
        index,
        torch.tensor(ids[:kept], dtype=torch.int64),
        torch.tensor(mask[:kept], dtype=torch.bool),
        prompt_length,
        cut=kept < len(ids),
    )


def _template_text(tokenizer: Any, template: str) -> str:
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
    """Base models that start every text with a begin token (Llama, Gemma) were never trained without it."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
