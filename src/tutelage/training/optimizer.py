"""The optimizer of a training run: AdamW, with its state in float32 on the device, in eight bits, or in CPU memory."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from tutelage.common.errors import TutelageError
from tutelage.models.sharding import local_part
from tutelage.models.surgery.quantise import missing_package
from tutelage.recipe.sections import TrainingConfig


def missing_library(optimizer: str) -> str | None:
    """What to do about a library that `training.optimizer` needs and that is not installed; None: nothing."""
    missing = missing_package(optimizer)
    return missing and f"training.optimizer: {missing}"


def make_optimizer(config: TrainingConfig, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `training.optimizer` names, of the weights that `module` trains.

    Raises TutelageError where the library of `adamw_8bit` is absent.
    """
    learnt = [p for p in module.parameters() if p.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.adam_betas,
        "eps": config.adam_eps,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw_offload":
        return OffloadedAdamW(learnt, **options)
    if missing := missing_library(config.optimizer):
        raise TutelageError(missing)
    if config.optimizer == "adamw_8bit":
        return _eight_bit_adamw()(learnt, **options)
    return torch.optim.AdamW(learnt, fused=True, **options)


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Set the learning rate of the next step; torchao keeps it in a tensor, which a compiled step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_bytes(optimizer: str, weight_bytes: float, width: int) -> float:
    """Device memory of the two moments of weights that take `weight_bytes` bytes, `width` bytes each."""
    return {"adamw": 2.0, "adamw_8bit": 2.0 / width, "adamw_offload": 0.0}[optimizer] * weight_bytes


def _eight_bit_adamw() -> Any:
    """torchao's AdamW8bit on this rank's own shares of the weights, as plain tensors: given FSDP2's, the step that it
    compiles takes every rank's share to be as large as the first one's, and fails where they are not."""
    from torchao.optim import AdamW8bit  # type: ignore[import-not-found]

    class OwnShares(AdamW8bit):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            """Update all weights that have a gradient."""
            weights = [p for group in self.param_groups for p in group["params"]]
            shares = {p: local_part(p.detach()) for p in weights}
            for weight, share in shares.items():
                share.grad = None if weight.grad is None else local_part(weight.grad)
            self._stand_for(shares)
            try:
                super().step(closure)
            finally:
                self._stand_for({share: weight for weight, share in shares.items()})

        def _stand_for(self, others: dict[Tensor, Tensor]) -> None:
            """Put each weight's other in its place, in the groups and in the state."""
            for group in self.param_groups:
                group["params"] = [others[p] for p in group["params"]]
            self.state = defaultdict(dict, {others[p]: state for p, state in self.state.items()})

    return OwnShares


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW whose two moments and arithmetic are in CPU memory: on CPU the same as AdamW, bit for bit.

    Weight and gradient of one parameter at a time are copied there, and the weight back. torchao's
    `CPUOffloadOptimizer` copies gradients during backward, before they are clipped, so it would not clip them.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def load_state_dict(self, state_dict: Any) -> None:
        """As torch does, but the moments stay in CPU memory."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        super().load_state_dict({**state_dict, "state": {}})
        for parameter, i in zip(parameters, ids, strict=True):
            if i in state_dict["state"]:
                self.state[parameter] = {
                    k: local_part(v).to("cpu", copy=True) for k, v in state_dict["state"][i].items()
                }

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        own, state = local_part(parameter), self.state[parameter]
        weight, gradient = _on_cpu(own), _on_cpu(local_part(parameter.grad))
        if not state:
            state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight, pin_memory=False)}
            state["exp_avg_sq"] = torch.zeros_like(weight, pin_memory=False)
        adamw(
            [weight],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if weight is not own:
            own.copy_(weight)


def _on_cpu(tensor: Tensor) -> Tensor:
    """The tensor itself if it is there, else a copy in pinned memory, which is faster to fill and to read."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
