"""Low-rank adapters (LoRA, by peft) inside a transformers model, which keeps its class, its decoder and its head.

An adapted layer computes W·x + scale·B·(A·x) with W frozen. Adapters are float32 whatever W is; A starts uniform in
±1/√inputs, keyed by seed and layer, so that it is the same on every device and rank, and B at 0.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.common.errors import TutelageError, did_you_mean
from tutelage.common.hashing import keyed_integer
from tutelage.models.sharding import assign, gathered
from tutelage.models.surgery.quantise import in_no_linear_map
from tutelage.models.whole import ADAPTER
from tutelage.recipe.sections import LoraConfig

NAME = "default"  # peft's name of the one adapter
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of names in peft's files


def missing_peft() -> str | None:
    """What to do where peft is not installed; None: nothing."""
    return None if importlib.util.find_spec("peft") else "`lora` needs peft: pip install 'tutelage[lora]'"


def add_adapter(model: Any, config: LoraConfig, seed: int) -> None:
    """Freeze a transformers model and add an adapter to its linear maps, in place. Raises TutelageError as
    `inject_adapter` does."""
    inject_adapter(model, config)
    for name, layer in adapted_layers(model).items():
        for part, start in ((layer.lora_A[NAME], 1.0), (layer.lora_B[NAME], 0.0)):
            weight = part.weight
            made = torch.empty(weight.shape, dtype=torch.float32)
            bound = start / made.shape[1] ** 0.5
            made.uniform_(-bound, bound, generator=torch.Generator().manual_seed(keyed_integer("lora", seed, name)))
            part.weight = nn.Parameter(made.to(weight.device))


def inject_adapter(model: Any, config: LoraConfig) -> None:
    """`add_adapter` without the adapter's first values: on the meta device, whether a model can have it at all.

    Raises TutelageError without peft, for a target that is no linear map of the model or that peft takes for the fused
    weights of experts, and for dropout on the head, whose adapter is part of its weight.
    """
    if missing := missing_peft():
        raise TutelageError(missing)
    import peft  # type: ignore[import-not-found]

    head = model.get_output_embeddings()
    if config.targets != "all-linear":
        _check_targets(model, config.targets)
        adapted = [name for name, module in model.named_modules() if module is head]
        if config.dropout and any(name.rpartition(".")[2] in config.targets for name in adapted):
            raise TutelageError("lora.dropout: the head's adapter has none: set it to 0, or take the head out")
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.scale * config.r,  # type: ignore[arg-type]
        target_modules=_targets(model, config),
        lora_dropout=config.dropout,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tied head is merged as its own matrix
        known = sorted({name.rpartition(".")[2] for name in _linear_maps(model)})
        try:
            peft.inject_adapter_in_model(settings, model)
        except ValueError as error:
            raise TutelageError(f"lora.targets: {error} (linear maps of this model: {', '.join(known)})") from None
    if fused := settings.target_parameters:
        # Of some families peft takes names of linear maps (of dense layers, shared experts) for the experts' weights.
        free = sorted({name.rpartition(".")[2] for name in settings.target_modules or ()})
        raise TutelageError(
            f"lora.targets: in {type(model).__name__} peft would adapt the experts' fused weights instead "
            f"({', '.join(sorted(fused))}), which cannot be merged: give other linear maps"
            + (f", such as targets: [{', '.join(free)}]" if free else "")
        )


def adapted_layers(model: Any) -> dict[str, Any]:
    """peft's layers with an adapter, by name; empty for a model without one."""
    if not getattr(model, "peft_config", None):
        return {}
    from peft.tuners.lora import LoraLayer  # type: ignore[import-not-found]

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def passed_over(model: Any, config: LoraConfig) -> str:
    """One line on the weights that `config.targets` would be thought to cover and that have no adapter, since they are
    in no linear map (the fused experts of a mixture, its router); "" if there are none."""
    found = in_no_linear_map(model)
    if config.targets != "all-linear":
        ends = tuple(f".{target}" for target in config.targets)
        found = {name: count for name, count in found.items() if name.removesuffix(".weight").endswith(ends)}
    if not found:
        return ""
    total = sum(weight.numel() for name, weight in model.named_parameters() if ".lora_" not in name)
    return (
        f"{sum(found.values()):,} of {total:,} weights get no adapter and stay as they are, for they are in no linear "
        f"map: {', '.join(found)}"
    )


def trainable_weights(model: Any) -> int:
    """Number of weights that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextlib.contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Run the block with the base's weights alone, in evaluation mode."""
    # peft's own switch also turns gradients off and on, which data parallelism must not see.
    layers, training = adapted_layers(model).values(), model.training
    model.eval()
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
        model.train(training)


def head_weight(layer: Any) -> Tensor:
    """The weight [V, D] of an output layer, with its adapter if it has one and that is on; sharded weights gathered."""
    base = getattr(layer, "base_layer", None)
    if base is None or not hasattr(layer, "lora_A") or layer._disable_adapters:
        return gathered(layer.weight)
    a, b = (gathered(part[NAME].weight) for part in (layer.lora_A, layer.lora_B))
    with torch.autocast(a.device.type, enabled=False):
        folded = gathered(base.weight) + layer.scaling[NAME] * (b @ a)
    return folded if torch.is_grad_enabled() else folded.to(base.weight.dtype)


@torch.no_grad()
def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of a plain model as if it had no adapter: in each adapted layer's weight the adapter is added, in
    float32, then rounded to the base's type. Weights in four bits are given as the numbers that they stand for."""
    layers = adapted_layers(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        whole, layer = name.replace(".base_layer.", "."), layers.get(name.rpartition(".base_layer.")[0])
        value = dense(parameter, model.dtype)
        if layer is not None and name.endswith(".weight"):
            value = (value.float() + layer.get_delta_weight(NAME).float()).to(value.dtype)
        yield whole, value


def dense(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight as a plain tensor: one in four bits as the numbers that it stands for, in `dtype`."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found]

    return dequantize_4bit(weight.data, state).to(dtype)


@torch.no_grad()
def merged_model(model: Any) -> Any:
    """A new transformers model on the CPU, of the model's class, with the adapter added to its weights.

    A tied head that has an adapter becomes a matrix of its own.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    head = model.get_output_embeddings()
    if hasattr(head, "lora_A"):
        config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = False
    with torch.device("meta"):
        out = type(model)._from_config(config, dtype=model.dtype)
    for name, value in merged_weights(model):
        owner, _, last = name.rpartition(".")
        setattr(out.get_submodule(owner), last, nn.Parameter(value.to("cpu"), requires_grad=False))
    for name, value in model.named_buffers():
        if ".lora_" not in name:
            owner, _, last = name.replace(".base_layer.", ".").rpartition(".")
            if last in out.get_submodule(owner)._buffers:
                out.get_submodule(owner)._buffers[last] = value.to("cpu")
    out.tie_weights()
    out.generation_config = copy.deepcopy(model.generation_config)
    return out.eval()


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """The adapter's weights by peft's names in files; sharded ones are gathered, by all ranks together."""
    named = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    return {f"{_PREFIX}{name.replace(f'.{NAME}.', '.')}": gathered(p).detach() for name, p in named.items()}


def save_adapter(model: Any, folder: Path, base: str, revision: str | None = None) -> None:
    """Write the adapter as peft does: its weights, and a configuration that names `base`, the path of its base."""
    from safetensors.torch import save_file

    settings = copy.deepcopy(model.peft_config[NAME])
    settings.base_model_name_or_path, settings.revision, settings.inference_mode = base, revision, True
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: w.to("cpu").contiguous() for name, w in adapter_weights(model).items()},
        folder / WEIGHTS,
        {"format": "pt"},
    )
    settings.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)


def load_adapter(model: Any, folder: Path) -> None:
    """Set the adapter's weights to those in `folder`. Raises TutelageError if they are not those of this adapter."""
    from safetensors.torch import load_file

    found = load_file(folder / WEIGHTS)
    named = {f"{_PREFIX}{n.replace(f'.{NAME}.', '.')}": p for n, p in model.named_parameters() if ".lora_" in n}
    shapes = {name: tuple(p.shape) for name, p in named.items()}
    if shapes != {name: tuple(w.shape) for name, w in found.items()}:
        raise TutelageError(f"adapter {folder} is not of this model and these `targets`: run its stage again")
    for name, parameter in named.items():
        assign(parameter, found[name].to(parameter.device, parameter.dtype))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, not a whole model."""
    return (folder / ADAPTER).is_file()


def _linear_maps(model: Any) -> list[str]:
    """Names of the linear maps, without the head."""
    head = model.get_output_embeddings()
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]


def _targets(model: Any, config: LoraConfig) -> Any:
    """What peft is told to adapt. It would add the experts' fused weights to its own `all-linear` in some families."""
    fused = any(weight.ndim > 2 for weight in model.parameters())
    return _linear_maps(model) if config.targets == "all-linear" and fused else config.targets


def _check_targets(model: Any, targets: list[str]) -> None:
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise TutelageError(
                f"lora.targets: {type(model).__name__} has no linear map `{target}` (it has: {', '.join(known)}): "
                f"{did_you_mean(target, known, 'name some of these')}"
            )
