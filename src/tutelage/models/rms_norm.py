"""RMS norms as one kernel instead of seven as in transformers; half of a small model's kernels are norms."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FusedRMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight, as in Llama, by torch's fused kernel."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        # Sharded layers have narrower weights, and torch only fuses equal types.
        weight = self.weight.to(hidden_states.dtype)
        return F.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)


@torch.no_grad()
def fuse_norms(model: Any) -> int:
    """Replace the forward of every Llama-like RMS norm by the fused one, in place; returns the number of such norms.

    A norm is recognised by what it computes, not by its name (Gemma's, for example, multiply by 1 + weight).
    """
    is_rms_norm: dict[type, bool] = {}
    fused = 0
    for module in model.modules():
        if not (hasattr(module, "variance_epsilon") and isinstance(getattr(module, "weight", None), nn.Parameter)):
            continue
        norm_type = type(module)
        if norm_type not in is_rms_norm:
            is_rms_norm[norm_type] = _is_rms_norm(module)
        if is_rms_norm[norm_type]:
            module.__class__ = FusedRMSNorm
            fused += 1
    return fused


def _is_rms_norm(module: Any) -> bool:
    """Whether the module computes what FusedRMSNorm does, on random numbers."""
    if len(inspect.signature(module.forward).parameters) != 1:  # a gated norm (Mamba 2, Qwen3-Next)
        return False
    generator = torch.Generator().manual_seed(0)
    x = 1.0 + torch.randn(3, module.weight.shape[-1], generator=generator)
    # The trial has weights of its own: the model's may be sharded, or still on the meta device.
    trial = copy.deepcopy(module, {id(module.weight): nn.Parameter(0.5 + torch.rand(x.shape[-1], generator=generator))})
    return torch.allclose(trial(x), FusedRMSNorm.forward(trial, x), rtol=1e-5, atol=1e-5)
