"""Sampled tokens as text: no U+FFFD that the model did not write, by any way of cutting them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from chat_templates import CHATML, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from tutelage.data.chat_template import ChatTemplate
from tutelage.data.whole_text import MARK, _table, broken_places

TEXTS = st.text(st.sampled_from("ab é\n東京🙂🛶𝔘\u0301क्षি~"), max_size=12)


@cache
def byte_level() -> ChatTemplate:
    return ChatTemplate(tokenizer(CHATML))


@cache
def byte_fallback() -> ChatTemplate:
    """Llama 2's kind: letters where they are known, else one token per byte."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "é", "東", "\n"]
    inner = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    out = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    out.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    return ChatTemplate(out)


KINDS = pytest.mark.parametrize("make", [byte_level, byte_fallback])


def ids_of(template: ChatTemplate, text: str) -> list[int]:
    return list(template.tokenizer(text, add_special_tokens=False)["input_ids"])


def bytes_of(template: ChatTemplate, data: bytes) -> list[int]:
    """The tokens of bytes, one each, also where they are no text."""
    letters = {byte: letter for letter, byte in _table().items()}
    names = [letters[byte] if template is byte_level() else f"<0x{byte:02X}>" for byte in data]
    return template.tokenizer.convert_tokens_to_ids(names)


@KINDS
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, end=st.integers(0, 60))
def test_a_text_cut_anywhere_is_its_longest_whole_beginning(make: Any, text: str, end: int):
    template = make()
    ids = ids_of(template, text)
    assert template.decode(ids) == text
    cut = template.decode(ids[:end])
    assert MARK not in cut
    assert text.startswith(cut)
    assert template.is_text(ids[:end], finished=False)
    assert template.is_text(ids[:end], finished=True) == (broken_places(template.tokenizer, ids[:end]) == [])
    # no more is lost than the character that was cut: with one token more per byte, all whole ones are there
    spelt = bytes_of(template, text.encode())
    whole = text.encode()[:end].decode(errors="ignore")
    assert template.decode(spelt[:end]) == whole


@KINDS
@settings(max_examples=150, deadline=None)
@given(data=st.lists(st.one_of(st.binary(max_size=3), TEXTS.map(str.encode)), max_size=5))
def test_any_bytes_decode_to_what_is_text_in_them(make: Any, data: list[bytes]):
    template, joined = make(), b"".join(data)
    ids = bytes_of(template, joined)
    assert template.decode(ids) == joined.decode(errors="ignore")
    assert template.is_text(ids, finished=True) == (joined.decode(errors="ignore").encode() == joined)


@KINDS
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_tokens_never_give_the_mark(make: Any, data: st.DataObject):
    template = make()
    known = st.integers(0, len(template.tokenizer) - 1)
    ids = data.draw(st.lists(known, max_size=20))
    assert MARK not in template.decode(ids)


@KINDS
def test_a_mark_that_the_model_writes_stays(make: Any):
    template = make()
    ids = ids_of(template, f"a{MARK}b")
    assert template.decode(ids) == f"a{MARK}b"
    assert template.decode([*ids, *bytes_of(template, "🛶".encode()[:3])]) == f"a{MARK}b"
    assert template.is_text(ids, finished=True)


def test_a_whole_letter_before_a_cut_one_stays():
    """With byte fallback the decoder writes a mark for every byte of a run, those of whole letters too."""
    template = byte_fallback()
    ids = bytes_of(template, "🛶".encode() + b"\xf0")
    assert template.tokenizer.decode(ids) == 5 * MARK
    assert template.decode(ids) == "🛶"


def test_a_token_that_ends_one_letter_and_begins_another_goes_with_both():
    inner = tokenizer(CHATML)
    letters = {byte: letter for letter, byte in _table().items()}
    piece = letters[0x82] + letters[0xF0]  # the end of "é" in two tokens would be 0xA9; here of U+00C2's row
    inner.add_tokens([piece])
    template = ChatTemplate(inner)
    (joint,) = inner.convert_tokens_to_ids([piece])
    ids = [*bytes_of(byte_level(), b"a\xc3"), joint]
    assert template.decode(ids) == "a"
    assert broken_places(inner, ids) == [1, 2]
