"""Frozen models whose linear maps are held in eight or four bits, by torchao and bitsandbytes through transformers.

transformers quantises each weight as it is read from its file, on the device, so that the model is never there in
bfloat16. Embedding, norms and head keep their type. int8: one scale per output row, weights alone. float8: weights and
activations by rows (e4m3). nf4: blocks of 64 weights, their scales in eight bits.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from typing import Any

import torch
from torch import nn

from tutelage.common.errors import TutelageError
from tutelage.common.progress import tell
from tutelage.recipe.sections import ModelConfig

PACKAGES = {"int8": "torchao", "float8": "torchao", "nf4": "bitsandbytes", "adamw_8bit": "torchao"}


def missing_package(name: str | None) -> str | None:
    """What to do about a library that a precision or an optimizer needs and that is not installed; None: nothing."""
    package = PACKAGES.get(name or "")
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"`{name}` needs {package}: pip install 'tutelage[quant]'"


def check_precision(config: ModelConfig, adapter: bool, device: str, sharded: bool) -> None:
    """Raise TutelageError where a model cannot be held in `config.precision`: the package is missing, the device cannot
    compute in it, its ranks share one model, or the model is an `adapter`."""
    where, missing = f"`{config.path}`: precision: {config.precision}", missing_package(config.precision)
    if missing is not None:
        raise TutelageError(f"`{config.path}`: {missing}")
    if sharded:
        raise TutelageError(f"{where} is not shared among ranks: leave `training.shard` out, or `precision`")
    if adapter:
        raise TutelageError(f"{where} needs a whole model, and this is an adapter: tutelage export --merge it first")
    if config.precision == "float8" and (device != "cuda" or torch.cuda.get_device_capability() < (8, 9)):
        raise TutelageError(f"{where} needs a CUDA GPU of compute capability 8.9 (Ada, Hopper) or newer: use int8")


def quantization(precision: str, dtype: torch.dtype) -> Any:
    """transformers' quantisation config for a precision; computed in `dtype`."""
    import transformers

    if precision == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    from torchao import quantization as torchao  # type: ignore[import-not-found]

    # By default torchao has the compiler tune every kernel of the process, the student's too, at each start.
    as_it_is: dict[str, Any] = {"set_inductor_config": False}
    if precision == "int8":
        return transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig(**as_it_is))
    rows = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow(), **as_it_is)
    return transformers.TorchAoConfig(rows)


def keep_scales(model: Any) -> None:
    """Keep bitsandbytes from repacking weights for a CPU's own kernel, which rounds their scales to bfloat16."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def in_no_linear_map(model: Any) -> dict[str, int]:
    """Number of weights in matrices that are in no linear map, embedding or head, such as fused experts and routers, by
    name with `*` for the layer, the most first. Adapters and quantisation pass over them."""
    from transformers.pytorch_utils import Conv1D

    found: Counter[str] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D) or module is model.get_output_embeddings():
            continue
        for own, weight in module.named_parameters(prefix=name, recurse=False):
            if weight.ndim > 1:
                found[re.sub(r"\.\d+(?=\.)", ".*", own)] += weight.numel()
    return dict(found.most_common())


def note_unquantised(config: ModelConfig, model: Any) -> None:
    """Print a note of what keeps its type in a quantised model and is more than embedding, norms and head."""
    if found := in_no_linear_map(model):
        tell(
            f"`{config.path}`: {sum(found.values()):,} weights are not held in {config.precision}, for they are in no "
            f"linear map: {', '.join(found)}",
            "note",
            file=sys.stderr,
        )
