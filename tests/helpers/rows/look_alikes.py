"""Look-alikes of the chat templates that people use, written for the tests: the same tokens, switches and habits.

None is a model's own template; those of the package trl are tested too where it is installed (`published`). The
look-alikes are in the folder look_alikes, named by the family whose habits they have.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from chat_templates import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_SPECIAL = re.compile(r"<[|｜][^\s<>|｜'\"{}]+[|｜]>|<(?:start|end)_of_(?:turn|role|text|utterance)>|<\|\w+>|<\w+\|>")
_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|return|>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
)


LOOK_ALIKES = {
    file.stem.replace("_", " "): file.read_text(encoding="utf-8")
    for file in sorted((Path(__file__).parent / "look_alikes").glob("*.jinja"))
}


def published() -> dict[str, str]:
    """The chat templates in the package trl by name, without its own variants for training; none without trl."""
    spec = importlib.util.find_spec("trl")
    folders = [Path(place) / "chat_templates" for place in (spec.submodule_search_locations or [])] if spec else []
    files = [file for folder in folders for file in sorted(folder.glob("*.jinja"))]
    return {f"trl {f.stem}": f.read_text(encoding="utf-8") for f in files if not f.stem.endswith("_training")}


def tokenizer_of(template: str) -> Any:
    """A byte-level tokenizer with the special tokens that the template writes."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    special = sorted({*_SPECIAL.findall(template), "<s>", "</s>"})
    eos = next((end for end in _ENDS if end in special), "</s>")
    out = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token=eos, additional_special_tokens=special
    )
    out.chat_template = template
    return out
