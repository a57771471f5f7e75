"""A loaded model is checked against its own forward pass: do packed sequences give the same logits?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import TokenSequence
from tutelage.data.batch import make_micro_batch
from tutelage.loss.chunk import chunk_logits
from tutelage.models.language_model import LanguageModel

# Where in the vocabulary the tokens of two short sequences stand: past the special ones of a real model, which many
# never learnt, so that rounding alone gives them other logits after some training.
_PROBES = ((0.021, 0.041, 0.031, 0.081), (0.061, 0.043, 0.131, 0.018, 0.025, 0.014))


def _probes(model: Any) -> list[Tensor]:
    """Token ids, one tensor per sequence."""
    width = model.config.get_text_config().vocab_size
    return [(width * torch.tensor(places)).long() for places in _PROBES]


@torch.no_grad()
def own_logits(model: Any) -> Tensor:
    """The model's own logits of each probe alone, [N, V]."""
    return torch.cat([model(ids[None].to(model.device)).logits[0, :-1].float() for ids in _probes(model)])


@torch.no_grad()
def differs_from_own(model: Any, own: Tensor, packed: bool) -> bool:
    """Whether decoder and head, taken apart, give other logits than the model. Architectures differ in ways that no
    config tells: some pass nothing on to their attention, so that packed sequences would see each other."""
    parts = _probes(model)
    sequences = [TokenSequence(i, ids, torch.ones_like(ids, dtype=torch.bool), 0) for i, ids in enumerate(parts)]
    signal = LanguageModel(model)(make_micro_batch(sequences, [1.0] * len(parts), not packed).to(model.device))
    ours = chunk_logits(signal.hidden, signal.head)
    error, size = ((z - z.mean(-1, keepdim=True)).norm(dim=-1) for z in (ours - own, own))
    # Rounding to half precision makes 0.09 at most in SmolLM2, after training it might make more in a place; sequences
    # that see each other make 0.5 to 1.4 in all places of the second.
    return int((error > 0.3 * size).sum()) > 1


def runs_packed(model: Any) -> bool:
    """Whether plain causal attention over packed sequences is all that this architecture's attention does."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    drops = any(getattr(config, name, None) for name in ("attention_dropout", "attn_pdrop"))  # not in `attention.py`
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    backend = getattr(model, "_supports_attention_backend", False)
    return bool(backend) and not (windowed or capped or drops or sinks) and kinds == {"full_attention"}
