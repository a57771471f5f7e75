"""Weights in the compute type, beside the float32 weights (masters) that the optimizer changes and that are saved."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.loss.triton_sums import add_to
from tutelage.models.own_module import OwnModule
from tutelage.models.sharding import is_sharded


class Working:
    """The model that computes for `masters`, a transformers model or a module of one's own, in the type `compute`.

    It is a copy whose trained weights are in `compute`, with the masters' buffers and frozen weights. After a backward
    pass its gradients have been added to the masters', in the masters' type. `refresh` rounds the masters into it: once
    per optimizer step, where autocast rounds in every micro-batch. All activations, so also the residual stream, are in
    `compute`, as in transformers.

    `model` is `masters` itself if there is nothing to round, if it is sharded (FSDP2 rounds what it gathers, and keeps
    gradients in float32), and for a module of one's own, which runs under autocast: it may mix types.
    """

    def __init__(self, masters: Any, compute: torch.dtype) -> None:
        self.model = masters
        self._working: list[Tensor] = []
        self._masters: list[Tensor] = []
        self._cast = compute if isinstance(masters, OwnModule) and compute != torch.float32 else None
        trained = [p for p in masters.parameters() if p.requires_grad]
        if self._cast is None and not is_sharded(masters) and any(p.dtype != compute for p in trained):
            self.model = self._copy(masters, compute)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters into the working weights."""
        if self._working:
            torch._foreach_copy_(self._working, self._masters)  # type: ignore[reportPrivateImportUsage]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """For a block in which `model` runs."""
        if self._cast is None:
            return contextlib.nullcontext()
        return torch.autocast(next(self.model.parameters()).device.type, self._cast)

    def _copy(self, masters: Any, compute: torch.dtype) -> Any:
        wide = set(getattr(masters, "_keep_in_fp32_modules_strict", None) or ())
        made: dict[int, Any] = {id(buffer): buffer for buffer in masters.buffers()}
        for name, master in masters.named_parameters():
            kind = master.dtype if wide.intersection(name.split(".")) else compute
            plain = type(master) is nn.Parameter and master.is_floating_point()  # not a quantised one
            if not master.requires_grad:
                made[id(master)] = _narrowed(master, kind) if plain and master.dtype != kind else master
                continue
            weight = _narrowed(master, kind).requires_grad_()
            weight.register_post_accumulate_grad_hook(_AddTo(master))
            self._working.append(weight)
            self._masters.append(master)
            made[id(master)] = weight
        return copy.deepcopy(masters, made)


class _AddTo:
    """Moves the gradient of a working weight to its master, whose gradient it is added to."""

    def __init__(self, master: Tensor) -> None:
        self.master = master

    def __call__(self, weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        if self.master.grad is None:
            self.master.grad = gradient.to(self.master.dtype)
        else:
            add_to(self.master.grad, gradient)


def _narrowed(parameter: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=False)
