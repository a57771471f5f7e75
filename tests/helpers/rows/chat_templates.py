"""Chat templates, a tokenizer and conversations for tests."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tutelage.common.types import Conversation, Message

TEXTS = [
    "user\nassistant\nsystem\nThe cat sat on the mat.\n\nThe dog ran after the cat. 1 2 3",
    "\n\nHello there, how are you?\n\n\nFine, thank you.\n",
    "ProbeOne ProbeTwo ProbeThree <|user|>\n<|assistant|>\n",
] * 3

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|begin|>", "<|start|>", "<|stop|>", "<|eot|>", "</s>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAMA3 = (
    "<|begin|>{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)

OPEN_THOUGHT = CHATML.replace("assistant\n{% endif %}", "assistant\n[think]{% endif %}")


def tokenizer(chat_template: str | None = None, eos: str | None = "<|im_end|>", bos: str | None = None):
    """Byte-level BPE in which line breaks merge, so that a split between two of them changes the tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    out = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, bos_token=bos, additional_special_tokens=SPECIALS
    )
    out.chat_template = chat_template
    return out


def chat(*contents: str, system: str | None = None, source: str = "x.jsonl:1") -> Conversation:
    """A conversation of user and assistant turns, alternating."""
    turns = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(contents)]
    if system is not None:
        turns.insert(0, Message("system", system))
    return Conversation(source, tuple(turns), source=source)


MULTI = chat("The cat?", "\n\nThe dog ran.", "1 2", "3\n", "Hello", "Fine, thank you.", system="Hello there")
