"""Seconds and FLOPs of one token, on one GPU.

Per token that a model reads (`read_cost`), with P matrix weights, L layers, width h, H heads of size d, vocabulary V,
and a sequence of n tokens; p = 1 for a forward pass, 3 for forward and backward, 4 with gradient checkpointing; t = 1,
4, 5:

    FLOPs   = p · (2·P + 2·L·H·d·n), without the head's (2·V·h) for tokens that are only read
    seconds = FLOPs with them / (rate · min(1, h / 1460))  +  (225 · t · L · h  +  19 / 2 · V) bytes / bandwidth

with 115 instead of 225 where layers are compiled.

Per sampled token (`decode_seconds`), in a batch of b sequences with n tokens of context, a weight or cache entry in
2 bytes:

    seconds = ((2 · weights + b · cache bytes per token · n) / bandwidth  +  0.08 ms · L) / b
"""

from __future__ import annotations

from tutelage.runs.cost.facts import Machine, Shape

FULL_RATE_WIDTH = 1460  # matrix products of smaller models do not fill the machine
FLOAT8_RATE = 1.75  # of matrix products in float8, beside bfloat16; fitted to a 70B teacher on one H200
# Memory traffic per token, layer and unit of width, also of compiled ones; a training pass counts four times
LAYER_BYTES = 225, 115
VOCABULARY_BYTES = 19  # memory traffic per two tokens and entry of the vocabulary
DECODE_SECONDS = 0.08e-3  # per layer and decoding step


def read_cost(
    machine: Machine,
    shape: Shape,
    length: float,
    learnt: float = 1.0,
    compiled: bool = False,
    *,
    training: bool = False,
    checkpointing: bool = False,
    frozen: bool = False,
) -> tuple[float, float]:
    """(seconds, FLOPs) per token of a sequence of `length` tokens: one forward pass, or forward and backward; with
    `frozen` weights, without their gradients. `learnt`: the share of the tokens that go through the head, as
    responses do; the seconds were fitted as if all did."""
    passes = (4 if checkpointing else 3) - frozen if training else 1
    flops = passes * (2 * shape.matrix_weights + 2 * shape.layers * shape.heads * shape.head_dim * length)
    idle = passes * 2 * shape.vocab * shape.hidden * (1.0 - min(1.0, learnt))
    rate = 1e12 * machine.tflops * min(1.0, shape.hidden / FULL_RATE_WIDTH)
    rate *= FLOAT8_RATE if shape.precision == "float8" else 1.0
    traffic = LAYER_BYTES[compiled] * shape.layers * shape.hidden * ((5 if checkpointing else 4) if training else 1)
    traffic += VOCABULARY_BYTES * shape.vocab / 2
    return flops / rate + traffic / (1e12 * machine.bandwidth), flops - idle


def decode_seconds(machine: Machine, shape: Shape, batch: float, context: float, rate: float = 1.0) -> float:
    """Seconds per sampled token, in a batch of `batch` sequences with `context` tokens before it; `rate`: how many
    times as fast as one GPU the weights and caches are read."""
    read = 2 * shape.weights + batch * shape.cache_bytes * context
    return (read / (1e12 * rate * machine.bandwidth) + DECODE_SECONDS * shape.layers) / max(1.0, batch)
