"""The models and sequences that `paper.py` gives to every implementation, and the summary of a measurement."""

from __future__ import annotations

import argparse
import math
import random
import statistics
from types import SimpleNamespace
from typing import Any

from bench.sampling import LLAMA_1B, TINY

LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
SHARES = {"off-policy": 0.0, "mixed": 0.5, "on-policy": 1.0}  # λ of each case
Measured = tuple[float, float, float, float, float]  # seconds, tokens, sampled tokens, sampling seconds, loss


def make_rows(count: int, vocabulary: int, shrink: int) -> list[tuple[list[int], list[int]]]:
    """`count` pairs of prompt and response, as random token ids; `shrink` divides all lengths."""
    rng = random.Random(0)

    def tokens(length: float, most: int) -> list[int]:
        return [rng.randrange(1, vocabulary - 1) for _ in range(max(2, min(most, round(length)) // shrink))]

    return [
        (tokens(rng.lognormvariate(math.log(160), 0.63), 1_000), tokens(rng.lognormvariate(math.log(250), 0.9), 2_000))
        for _ in range(count)
    ]


def make_models(options: argparse.Namespace, device: str | None = None) -> tuple[Any, Any]:
    """Student and teacher on `device` (default: `options.device`)."""
    return make_student(options, device), make_teacher(options, device)


def make_student(options: argparse.Namespace, device: str | None = None) -> Any:
    """The student, in float32, on `device` (default: `options.device`)."""
    import torch

    return _build(TINY if options.small else LLAMA_1B, device or options.device, torch.float32, 0)


def make_teacher(options: argparse.Namespace, device: str | None = None) -> Any:
    """The teacher, in the type in which it teaches, on `device` (default: `options.device`)."""
    import torch

    half = torch.bfloat16 if options.device == "cuda" else torch.float32
    return _build(TINY if options.small else LLAMA_8B, device or options.device, half, 1)


def as_loaded(model: Any) -> Any:
    """The model as Tutelage has loaded ones, without tokenizer."""
    from tutelage.models.load import LoadedModel

    ends = SimpleNamespace(end_of_turn_id=0, end_of_turn_ids=(), text="")
    return LoadedModel(model, SimpleNamespace(pad_token_id=0), ends, True, "")  # type: ignore[arg-type]


def _build(shape: dict[str, Any], device: str, kind: Any, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(**shape)
    config.eos_token_id = None
    torch.set_default_dtype(kind)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    return model


def weights(shape: dict[str, Any]) -> int:
    """Number of weights in matrix products per token."""
    hidden, heads, kv, head = (
        shape[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    layer = 3 * hidden * shape["intermediate_size"] + 2 * hidden * heads * head + 2 * hidden * kv * head
    return shape["vocab_size"] * hidden + shape["num_hidden_layers"] * layer


def summary(measured: list[Measured], options: argparse.Namespace) -> dict[str, Any]:
    """Means and medians over the steps after the warm-up."""
    kept = measured[options.warmup :]
    seconds = sum(m[0] for m in kept)
    out: dict[str, Any] = {
        "seconds": statistics.median(m[0] for m in kept),
        "tokens_per_s": sum(m[1] for m in kept) / seconds,
        "tokens": sum(m[1] for m in kept) / len(kept),
        "first_loss": measured[0][4],
    }
    if SHARES[options.case]:
        out["sampled_tokens_per_s"] = sum(m[2] for m in kept) / seconds
        out["sampling_seconds"] = statistics.median(m[3] for m in kept)
    if options.device == "cuda":
        import torch

        out["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return out
