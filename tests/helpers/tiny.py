"""Tiny real models, made in milliseconds."""

from __future__ import annotations

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from tutelage.common.types import TokenSequence
from tutelage.models.attention import NAME, register_attention


def llama(layers=2, vocab=97, hidden=32, seed=0, tie=True, packed=True, scale=3.0):
    """A random Llama with grouped-query attention; `scale` sharpens its predictions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    if packed:
        register_attention()
        model.set_attn_implementation(NAME)
    return model


def gemma2(vocab=97, seed=0):
    """A random Gemma 2: sliding windows and capped logits, so it needs the padded path."""
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        max_position_embeddings=512,
        final_logit_softcapping=5.0,
    )
    return Gemma2ForCausalLM(config).eval()


def sequences(lengths, vocab=97, seed=0, prompt=4):
    """Random sequences of the given lengths; the first `prompt` tokens are the prompt."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i, length in enumerate(lengths):
        ids = torch.randint(3, vocab, (length,), generator=generator)
        mask = torch.arange(length) >= prompt
        out.append(TokenSequence(i, ids, mask, prompt, turns=(1,)))
    return out
