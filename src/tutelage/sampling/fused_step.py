"""A decoding step of Llama-like models by nine kernels per layer, where transformers' code for it takes some thirty.

Query, key and value are one matrix product, gate and up another, of weights that lie one below the other in a copy, if
the copies have room in a fiftieth of the device's memory. The kernels between the products are those of
`step_kernels.py`. Everything is computed in the order of transformers' layers and rounded as often or less.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mistral.modeling_mistral import MistralModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from tutelage.models.decode_attention import decode_attention
from tutelage.sampling.slot_cache import SlotCache
from tutelage.sampling.step_kernels import add_and_norm, rotate_into_slots, silu_times

_DECODERS = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model)
_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_COPIES = 0.02  # of the device's memory


def takes(decoder: Any) -> bool:
    """Whether `FusedStep` computes what the decoder does: a class that it knows, with plain weights of one type."""
    if type(decoder) not in _DECODERS or decoder.config.hidden_act != "silu":
        return False
    products = [module for layer in decoder.layers for module in (*_attention_inputs(layer), *_mlp_inputs(layer))]
    types = {parameter.dtype for parameter in decoder.parameters()}
    return all(type(x) is nn.Linear for x in products) and len(types) == 1 and types.issubset(_TYPES)


class FusedStep:
    """Feeds one token per row to a decoder that `takes` accepts, with the keys and values of `cache`.

    room: bytes for copies of weights; by default as above, and as many as it takes where there is no GPU. `refresh`
    copies them again; call it when the weights have changed.
    """

    def __init__(self, decoder: Any, cache: SlotCache, room: float | None = None) -> None:
        self.decoder, self.cache = decoder, cache
        device = decoder.embed_tokens.weight.device
        if room is None:
            room = _COPIES * torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else math.inf
        attention, mlp = ([inputs(layer) for layer in decoder.layers] for inputs in (_attention_inputs, _mlp_inputs))
        taken = _bytes(attention)  # first, for three small products take longer than two large ones
        self.attention_inputs = [_Product(parts, joined=taken <= room) for parts in attention]
        room -= taken if taken <= room else 0
        self.mlp_inputs = [_Product(parts, joined=_bytes(mlp) <= room) for parts in mlp]

    def refresh(self) -> None:
        """Copy the decoder's weights as they are now."""
        for product in (*self.attention_inputs, *self.mlp_inputs):
            product.refresh()

    def __call__(self, ids: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        """Last hidden states [B, D] of the first B slots. Token ids[b] goes to positions[b] of slot b and attends to
        the first seen[b] positions there; all are int64 [B].
        """
        decoder = self.decoder
        stream = decoder.embed_tokens(ids)  # the residual stream, [B, D]
        cos, sin = decoder.rotary_emb(stream, position_ids=positions[:, None])
        hidden = decoder.layers[0].input_layernorm(stream)
        following = [layer.input_layernorm for layer in decoder.layers[1:]] + [decoder.norm]
        for i, (layer, next_norm) in enumerate(zip(decoder.layers, following, strict=True)):
            attention, mlp = layer.self_attn, layer.mlp
            query, key, value = (
                part.unflatten(1, (-1, attention.head_dim)) for part in self.attention_inputs[i](hidden)
            )
            if hasattr(attention, "q_norm"):
                query, key = attention.q_norm(query), attention.k_norm(key)
            keys, values = self.cache.keys[i], self.cache.values[i]
            query = rotate_into_slots(query, key, value, cos, sin, keys, values, positions)
            mixed = decode_attention(query, keys, values, seen, attention.scaling)
            stream, hidden = add_and_norm(stream, attention.o_proj(mixed.flatten(1)), layer.post_attention_layernorm)
            hidden = mlp.down_proj(silu_times(*self.mlp_inputs[i](hidden)))
            stream, hidden = add_and_norm(stream, hidden, next_norm)
        return hidden


class _Product:
    """Linear layers of one input; `joined`: as one matrix product, by a copy of their weights."""

    def __init__(self, parts: list[nn.Linear], joined: bool) -> None:
        self.parts, self.widths = parts, [part.out_features for part in parts]
        self.weight = torch.cat([part.weight.detach() for part in parts]) if joined else None
        biased = any(part.bias is not None for part in parts)
        self.bias = torch.cat([_bias(part) for part in parts]) if joined and biased else None

    def refresh(self) -> None:
        if self.weight is not None:
            torch.cat([part.weight.detach() for part in self.parts], out=self.weight)
        if self.bias is not None:
            torch.cat([_bias(part) for part in self.parts], out=self.bias)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each layer's output; of a joined product they are views of one tensor."""
        if self.weight is None:
            return tuple(part(x) for part in self.parts)
        return F.linear(x, self.weight, self.bias).split(self.widths, dim=1)


def _bytes(groups: list[list[nn.Linear]]) -> int:
    return sum(part.weight.nbytes for parts in groups for part in parts)


def _bias(part: nn.Linear) -> Tensor:
    return part.weight.new_zeros(part.out_features) if part.bias is None else part.bias.detach()


def _attention_inputs(layer: Any) -> list[nn.Linear]:
    return [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]


def _mlp_inputs(layer: Any) -> list[nn.Linear]:
    return [layer.mlp.gate_proj, layer.mlp.up_proj]
