"""Tokens that hold only a part of a character: a text cut at a length limit may end in them.

Decoded, they give U+FFFD, the mark for bytes that are no text. It is not what the model wrote, and a model that is
trained on it learns to write it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

MARK = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def broken_places(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Positions in `ids` of the tokens with a byte of no whole character. Special tokens belong to no character.

    For byte-level tokenizers (GPT-2, Llama 3, Qwen) and those with byte fallback (Llama 2, Gemma); others have none.

    A character U+FFFD that is written out in its own bytes is whole.
    """
    level, special = _byte_level(tokenizer), set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens([int(token) for token in ids])
    left = [(place, _bytes(token, level)) for place, token in enumerate(tokens) if int(ids[place]) not in special]
    broken: set[int] = set()
    while True:  # a token that goes may have held the end of the character before it
        owners = [place for place, part in left for _ in part]
        wrong = _invalid(b"".join(part for _, part in left))
        if not wrong:
            return sorted(broken)
        broken |= {owners[byte] for byte in wrong}
        left = [(place, part) for place, part in left if place not in broken]


def _byte_level(tokenizer: Any) -> bool:
    """Whether its tokens are bytes, written as GPT-2 writes them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    return decoder is not None and b"ByteLevel" in decoder.__getstate__()


def _bytes(token: str, byte_level: bool) -> bytes:
    found = None if byte_level else _BYTE.fullmatch(token)
    if found is not None:
        return bytes([int(found[1], 16)])
    table = _table()
    if byte_level and all(letter in table for letter in token):
        return bytes(table[letter] for letter in token)
    return token.encode("utf-8", "surrogatepass")  # an added token, or text


@cache
def _table() -> dict[str, int]:
    """GPT-2's letter of each byte: itself if it can be printed, else one from U+0100 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _invalid(data: bytes) -> list[int]:
    """Places of the bytes that are not UTF-8."""
    out: list[int] = []
    start = 0
    while True:
        try:
            data[start:].decode("utf-8")
            return out
        except UnicodeDecodeError as error:
            out += range(start + error.start, start + error.end)
            start += error.end
