"""A GGUF file's tokenizer cuts text as the model's own does, or is asked for."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import gguf
import jobs
import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tutelage.common.errors import TutelageError
from tutelage.models.checkpoints.gguf_tokenizer import _LLAMA_3, _QWEN_2, cuts_of, set_cuts
from tutelage.models.files import locate
from tutelage.recipe.sections import ModelConfig

_INFO = ("missing_keys", "mismatched_keys", "unexpected_keys")
TEXT = "I'll don'T  see 12345:\n\n  1. x_y\tend"
PIECES = {  # between bars
    "gpt-2": "I|'ll| don|'|T| | see| 12345|:|\n\n | 1|.| x|_|y|\t|end",
    "smollm": "I|'ll| don|'|T| | see| |1|2|3|4|5|:|\n\n  |1|.| x|_|y|\t|end",
    "llama-bpe": "I|'ll| don|'T| | see| |123|45|:\n\n| | |1|.| x|_y|\tend",
    "qwen2": "I|'ll| don|'T| | see| |1|2|3|4|5|:\n\n| | |1|.| x|_y|\tend",
}


def as_transformers_reads_it() -> SimpleNamespace:
    """A byte-level tokenizer with what transformers gives one of Llama's architecture."""
    words = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(words, [], byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.ByteLevel()])
    return SimpleNamespace(backend_tokenizer=backend, clean_up_tokenization_spaces=True)


def test_the_patterns_are_those_of_transformers_own_tokenizers():
    assert inspect.signature(TikTokenConverter).parameters["pattern"].default == _LLAMA_3
    assert PRETOKENIZE_REGEX == _QWEN_2


@pytest.mark.parametrize("name", PIECES)
def test_text_is_cut_as_the_file_says(name: str):
    tokenizer = as_transformers_reads_it()
    assert set_cuts(tokenizer, name)
    backend = tokenizer.backend_tokenizer
    pieces = [TEXT[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(TEXT)]
    assert "|".join(pieces) == PIECES[name]
    assert backend.decode(backend.encode("a ▁ é <0x0A>\n").ids) == "a ▁ é <0x0A>\n"
    assert not backend.model.byte_fallback
    assert backend.model.ignore_merges is (name == "llama-bpe")
    assert tokenizer.clean_up_tokenization_spaces is False


def write(file: Path, **fields: str) -> Path:
    writer = gguf.GGUFWriter(file, "llama")
    for name, value in fields.items():
        writer.add_string(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_other_kinds_of_tokenizer_have_no_cuts(tmp_path: Path):
    assert cuts_of(write(tmp_path / "a.gguf", model="llama", pre="default")) is None
    assert cuts_of(write(tmp_path / "b.gguf", model="gpt2", pre="smollm")) == "smollm"
    assert cuts_of(write(tmp_path / "c.gguf", model="gpt2")) == "gpt-2"


def test_cuts_that_are_not_known_need_the_models_own_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    model = tiny.llama()
    model.config.quantization_config = None
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda **_: (model, {k: [] for k in _INFO}))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda **_: jobs.words())
    file = write(tmp_path / "m.gguf", model="gpt2", pre="viking")
    for _ in range(2):  # converted, and found converted
        with pytest.raises(TutelageError, match=r"^m\.gguf: .*`viking`.*key `tokenizer`"):
            locate(ModelConfig(path=str(file)))
        assert locate(ModelConfig(path=str(file), tokenizer="org/own"))[1]
