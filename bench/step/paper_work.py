"""The models and sequences that `paper.py` gives to every implementation, and the summary of a measurement."""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Sequence
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
LLAMA_3B = LLAMA_1B | {"hidden_size": 3_072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8_192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
SHAPES = {"1b": LLAMA_1B, "3b": LLAMA_3B, "8b": LLAMA_8B, "70b": LLAMA_70B}
# Options of a plain step: a 1B student of which all weights are trained, and an 8B teacher in bfloat16.
PLAIN: dict[str, Any] = {"student": "1b", "lora": 0, "student_base": "bfloat16", "teacher_precision": "bfloat16"}
PLAIN |= {"shared_base": False, "checkpointing": False, "teacher": "8b", "compute": "", "compile": "off", "slots": 0}
PLAIN |= {"optimizer": "adamw"}
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


def student_shape(options: argparse.Namespace) -> dict[str, Any]:
    return TINY if options.small else SHAPES[options.student]


def teacher_shape(options: argparse.Namespace) -> dict[str, Any]:
    if options.shared_base:
        return student_shape(options)
    return TINY if options.small else SHAPES[options.teacher]


def compute_of(options: argparse.Namespace) -> str:
    """The type that the student computes in."""
    return options.compute or ("bfloat16" if options.device == "cuda" else "float32")


def make_models(options: argparse.Namespace, device: str | None = None) -> tuple[Any, Any]:
    """Student and teacher on `device` (default: `options.device`), each quantised as soon as it is made. With
    `options.shared_base` the student is the teacher too."""
    import torch

    student = make_student(options, device)
    teacher = student if options.shared_base else make_teacher(options, device)
    if options.device == "cuda":  # what the quantised models were made from is not part of a step
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return student, teacher


def make_student(options: argparse.Namespace, device: str | None = None) -> Any:
    """The student on `device` (default: `options.device`), in float32; with `options.lora` frozen, with an adapter."""
    import torch

    where = device or options.device
    if not options.lora:
        return _build(student_shape(options), where, torch.float32, 0)
    from tutelage.models.surgery.lora import add_adapter
    from tutelage.recipe.sections import LoraConfig

    half = torch.bfloat16 if options.device == "cuda" else torch.float32
    student = _build(student_shape(options), where, half, 0)
    quantise(student, options.student_base, half)
    add_adapter(student, LoraConfig(r=options.lora), seed=0)
    return student


def make_teacher(options: argparse.Namespace, device: str | None = None) -> Any:
    """The teacher, held as it teaches, on `device` (default: `options.device`)."""
    import torch

    half = torch.bfloat16 if options.device == "cuda" else torch.float32
    where = device or options.device
    if options.teacher == "70b" and where == options.device == "cuda":
        return _by_layers(teacher_shape(options), where, half, options.teacher_precision)
    teacher = _build(teacher_shape(options), where, half, 1)
    quantise(teacher, options.teacher_precision, half)
    return teacher


def as_loaded(model: Any) -> Any:
    """The model as Tutelage has loaded ones, without tokenizer."""
    from tutelage.models.load import LoadedModel

    ends = SimpleNamespace(end_of_turn_id=0, end_of_turn_ids=(), text="")
    return LoadedModel(model, SimpleNamespace(pad_token_id=0), ends, True, "")  # type: ignore[arg-type]


def _by_layers(shape: dict[str, Any], device: str, kind: Any, precision: str) -> Any:
    """A model of which one layer after the other is made and quantised: it is never there in `kind` as a whole."""
    import torch

    model = _build(shape, "meta", kind, 1)
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(model.config).to(device)
    generator = torch.Generator(device).manual_seed(1)
    for part in [*decoder.layers, decoder.embed_tokens, decoder.norm, model.lm_head]:
        part.to_empty(device=device)
        for parameter in part.parameters():
            if parameter.ndim == 1:
                torch.nn.init.ones_(parameter)
            else:
                torch.nn.init.normal_(parameter, std=model.config.initializer_range, generator=generator)
        if part in decoder.layers:
            quantise(model, precision, kind, [part])
    return model


def quantise(model: Any, precision: str, compute: Any, parts: Sequence[Any] | None = None) -> None:
    """Replace the linear maps of `parts` (default: the layers), in place and one at a time, by quantised ones, as
    loading does."""
    import torch

    if precision == "bfloat16":
        return
    if precision != "nf4":
        from torchao.quantization import quantize_

        from tutelage.models.surgery.quantise import quantization

        for part in model.get_decoder().layers if parts is None else parts:
            quantize_(part, quantization(precision, compute).quant_type)
        return
    import bitsandbytes as bnb

    for layer in model.get_decoder().layers if parts is None else parts:
        for name, linear in [(n, m) for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]:
            sizes = (linear.in_features, linear.out_features)
            new = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=compute, quant_type="nf4", device="meta")
            data = bnb.nn.Params4bit(linear.weight.data.to("cpu"), requires_grad=False, quant_type="nf4")
            new.weight = data.to(linear.weight.device)
            owner, _, last = name.rpartition(".")
            setattr(layer.get_submodule(owner), last, new)
    model.is_loaded_in_4bit = True
    from tutelage.models.surgery.quantise import keep_scales

    keep_scales(model)


def _build(shape: dict[str, Any], device: str, kind: Any, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(**shape)
    config.eos_token_id = None
    torch.set_default_dtype(kind)
    large = device == "cpu" and shape["hidden_size"] > 2_048  # drawing its weights there would take minutes
    with torch.device("meta" if large else device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if large:
        _fill(model, kind)
    model.generation_config.eos_token_id = None
    return model


def _fill(model: Any, kind: Any) -> None:
    """Weights on the CPU, which repeat sixteen million drawn numbers."""
    import torch

    model.to_empty(device="cpu")
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(model.config)
    drawn = torch.randn(2**24).mul_(model.config.initializer_range).to(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            for part in parameter.view(-1).split(len(drawn)):
                part.copy_(drawn[: len(part)])


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
