"""Removing layers from a model, to make a student where no small model of its family exists.

A freshly cut model is broken whichever layers were removed; an `sft` stage on general text heals it, the faster the
better the layers were chosen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.common.errors import TutelageError
from tutelage.common.types import MicroBatch, TokenSequence
from tutelage.data.batch import make_micro_batches
from tutelage.loss.objective import CrossEntropy
from tutelage.models.language_model import LanguageModel
from tutelage.models.load import LoadedModel
from tutelage.models.sharding import decoder_layers
from tutelage.recipe.stages import PruneConfig


def prune_layers(model: Any, keep: Sequence[int]) -> None:
    """Keep only the layers with the indices `keep`, in place and in ascending order, and renumber them.

    Raises TutelageError for indices that do not exist or occur twice, and for a model without a list of layers.
    """
    layers = decoder_layers(model)
    _check_keep(keep, len(layers))
    kept = sorted(keep)
    decoder, config = model.get_decoder(), model.config
    remaining: list[Any] = [layers[i] for i in kept]
    decoder.layers = nn.ModuleList(remaining)
    for index, layer in enumerate(remaining):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # key-value caches are indexed by it
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept]
    config.num_hidden_layers = len(kept)


def choose_layers(
    config: PruneConfig,
    loaded: LoadedModel,
    calibration: Sequence[TokenSequence],
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> list[int]:
    """The indices of the layers to keep, ascending, by the config's method.

    `calibration`: sequences for the methods that measure. `progress`: called with 1 for each layer that `least_damage`
    removes. Raises TutelageError as `fixed_layers` does.
    """
    total = len(decoder_layers(loaded.model))
    fixed = fixed_layers(config, total)
    if fixed is not None:
        return fixed
    assert config.layers is not None
    batches = _batches(loaded, calibration, device)
    if config.method == "block_influence":
        influence = block_influence(loaded.model, batches)
        ranked = sorted(range(total), key=lambda i: influence[i], reverse=True)
        return sorted(ranked[: config.layers])
    return _least_damage(loaded.model, batches, config.layers, progress)


def fixed_layers(config: PruneConfig, total: int) -> list[int] | None:
    """The indices to keep of `total` layers, ascending, where the config says them; None where a measurement chooses.

    Raises TutelageError for layers that the model does not have.
    """
    if config.keep is not None:
        _check_keep(config.keep, total)
        return sorted(config.keep)
    assert config.layers is not None
    if config.layers > total:
        raise TutelageError(f"`layers: {config.layers}` is more than the model's {total}: lower it")
    if config.method == "even":
        return [round(i * (total - 1) / max(1, config.layers - 1)) for i in range(config.layers)]
    return None


def _check_keep(keep: Sequence[int], total: int) -> None:
    if not keep or len(set(keep)) != len(keep) or max(keep) >= total:
        raise TutelageError(f"`keep: {list(keep)}` must name layers from 0 to {total - 1}, each once")


def perplexity(loaded: LoadedModel, sequences: Sequence[TokenSequence], device: torch.device) -> float:
    """exp(mean cross-entropy per response token in nats)."""
    return math.exp(_loss(loaded.model, _batches(loaded, sequences, device)))


@torch.no_grad()
def block_influence(model: Any, batches: Sequence[MicroBatch]) -> list[float]:
    """Per layer, 1 − cosine between its input and output, averaged over tokens (Men et al. 2024, "ShortGPT", eq. 1)."""
    sums = [0.0] * len(decoder_layers(model))
    tokens = 0

    def hook(index: int) -> Callable[..., None]:
        def measure(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            sums[index] += float((1 - torch.cosine_similarity(inputs[0].float(), after.float(), dim=-1)).sum())

        return measure

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(decoder_layers(model))]
    try:
        for batch in batches:
            LanguageModel(model)(batch)
            tokens += sum(batch.lengths)
    finally:
        for handle in handles:
            handle.remove()
    return [s / tokens for s in sums]


def _least_damage(
    model: Any, batches: Sequence[MicroBatch], target: int, progress: Callable[[int], None] | None
) -> list[int]:
    """Remove one layer at a time, each time the one whose removal raises the loss least."""
    keep = list(range(len(decoder_layers(model))))
    while len(keep) > target:
        trials = {layer: _loss(_shallow_cut(model, [k for k in keep if k != layer]), batches) for layer in keep}
        keep.remove(min(trials, key=lambda layer: (trials[layer], layer)))
        if progress is not None:
            progress(1)
    return keep


def _shallow_cut(model: Any, keep: Sequence[int]) -> Any:
    """A model with the layers `keep` that shares all weights with `model`, which is not changed."""
    cut = copy.copy(model)
    cut._modules = dict(model._modules)
    name = next(n for n, child in model._modules.items() if child is model.get_decoder())
    decoder = copy.copy(model.get_decoder())
    decoder._modules = dict(decoder._modules)
    decoder.config = copy.copy(decoder.config)
    decoder.config.num_hidden_layers = len(keep)
    decoder._modules["layers"] = nn.ModuleList([model.get_decoder().layers[i] for i in keep])
    cut._modules[name] = decoder
    return cut


@torch.no_grad()
def _loss(model: Any, batches: Sequence[MicroBatch]) -> float:
    """Mean cross-entropy per response token, in nats."""
    module = LanguageModel(model)
    return sum(float(module(batch, CrossEntropy(), None, False)[0]) for batch in batches)


def _batches(loaded: LoadedModel, sequences: Sequence[TokenSequence], device: torch.device) -> list[MicroBatch]:
    weight = 1.0 / max(1, sum(s.response_tokens for s in sequences))
    made = make_micro_batches(sequences, [weight] * len(sequences), 8192, padded=not loaded.packed)
    return [batch.to(device) for batch in made]
