"""RMS norms in one kernel. transformers writes them out in seven, and half of a small model's kernels are norms."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FusedRMSNorm(nn.Module):
    """What a Llama-like norm computes, x / √(mean x² + ε) · weight, by torch's own kernel."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.weight.to(hidden_states.dtype)  # narrower in sharded layers; torch fuses equal types alone
        return F.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)


@torch.no_grad()
def fuse_norms(model: Any) -> int:
    """Give every norm of this form the fused forward, in place; returns how many there were.

    A norm is known by what it computes and not by its name (Gemma's, for one, multiply by 1 + weight).
    """
    form: dict[type, bool] = {}
    fused = 0
    for module in model.modules():
        if not (hasattr(module, "variance_epsilon") and isinstance(getattr(module, "weight", None), nn.Parameter)):
            continue
        kind = type(module)
        if kind not in form:
            form[kind] = _is_rms_norm(module)
        if form[kind]:
            module.__class__ = FusedRMSNorm
            fused += 1
    return fused


def _is_rms_norm(module: Any) -> bool:
    if len(inspect.signature(module.forward).parameters) != 1:  # with a gate beside its input (Mamba 2, Qwen3-Next)
        return False
    generator = torch.Generator().manual_seed(0)
    x = 1.0 + torch.randn(3, module.weight.shape[-1], generator=generator)
    # with weights of its own: the model's may be shards, or not there yet
    tried = copy.deepcopy(module, {id(module.weight): nn.Parameter(0.5 + torch.rand(x.shape[-1], generator=generator))})
    return torch.allclose(tried(x), FusedRMSNorm.forward(tried, x), rtol=1e-5, atol=1e-5)
