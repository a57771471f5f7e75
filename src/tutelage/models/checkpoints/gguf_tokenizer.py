"""The tokenizer of a GGUF file. The file names how its text is cut into pieces before pairs of bytes are merged;
transformers does not read that name, and cuts as GPT-2 does for all models of Llama's architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, normalizers, pre_tokenizers

# The cuts of each family, as its own tokenizer.json has them: a pattern, with the pieces' bytes made visible after it.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> Any:
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt_2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


# By the names that llama.cpp gives them (`tokenizer.ggml.pre`).
_CUTS = {
    "gpt-2": _gpt_2,
    "llama-bpe": lambda: _split(_LLAMA_3),
    "qwen2": lambda: _split(_QWEN_2),
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt_2()]),
}


def cuts_of(file: Path) -> str | None:
    """The name of the cuts of a GGUF file's byte-level tokenizer; None for other tokenizers, which have none."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    kind, cuts = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind is None or kind.contents() != "gpt2":
        return None
    return "gpt-2" if cuts is None else str(cuts.contents())


def set_cuts(tokenizer: Any, name: str) -> bool:
    """Let a byte-level tokenizer of transformers' cut as `name` says, and decode its bytes and nothing else.

    False, and nothing changed, for a name that is not known here.
    """
    if name not in _CUTS:
        return False
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = _CUTS[name]()
    backend.normalizer = normalizers.NFC() if name == "qwen2" else None
    backend.decoder = decoders.ByteLevel()
    model = backend.model
    model.byte_fallback = model.fuse_unk = False  # all bytes are in the vocabulary, by other names than `<0x0A>`
    model.ignore_merges = name == "llama-bpe"
    tokenizer.clean_up_tokenization_spaces = False
    return True
