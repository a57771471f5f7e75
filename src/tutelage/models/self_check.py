"""Checks of a loaded model against its own forward pass: do packed sequences give the same logits?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import TokenSequence
from tutelage.data.batch import make_micro_batch
from tutelage.loss.chunk import chunk_logits
from tutelage.models.language_model import LanguageModel

# Two short sequences of tokens, as fractions of the vocabulary size. They avoid the special tokens at its start: many
# models never trained those, and then rounding alone changes their logits.
_PROBES = ((0.021, 0.041, 0.031, 0.081), (0.061, 0.043, 0.131, 0.018, 0.025, 0.014))


def _probe_ids(model: Any) -> list[Tensor]:
    """Token ids of the probe sequences, one tensor per sequence."""
    width = model.config.get_text_config().vocab_size
    return [(width * torch.tensor(places)).long() for places in _PROBES]


@torch.no_grad()
def own_logits(model: Any) -> Tensor:
    """The model's own logits of the probe sequences, each alone, at their predicting positions [N, V]."""
    return torch.cat([model(ids[None].to(model.device)).logits[0, :-1].float() for ids in _probe_ids(model)])


@torch.no_grad()
def differs_from_own(model: Any, reference: Tensor, packed: bool) -> bool:
    """Whether decoder and head, used separately, give other logits than `reference` [N, V] of `own_logits`.

    Architectures differ in ways that no config tells: in some, our attention does not get its arguments, so that packed
    sequences would attend to each other.
    """
    parts = _probe_ids(model)
    sequences = [TokenSequence(i, ids, torch.ones_like(ids, dtype=torch.bool), 0) for i, ids in enumerate(parts)]
    signal = LanguageModel(model)(make_micro_batch(sequences, [1.0] * len(parts), not packed).to(model.device))
    found = chunk_logits(signal.hidden, signal.head)
    error, size = ((z - z.mean(-1, keepdim=True)).norm(dim=-1) for z in (found - reference, reference))
    # Relative error per position: half precision gives at most 0.09 in SmolLM2, and may give more at one position after
    # training; sequences that attend to each other give 0.5 to 1.4 at every position of the second.
    return int((error > 0.3 * size).sum()) > 1


def runs_packed(model: Any) -> bool:
    """Whether this architecture's attention is plain causal attention, so that `attention.py` can replace it."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    # `attention.py` has no dropout.
    dropout = any(getattr(config, name, None) for name in ("attention_dropout", "attn_pdrop"))
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    backend = getattr(model, "_supports_attention_backend", False)
    return bool(backend) and not (windowed or capped or dropout or sinks) and kinds == {"full_attention"}
