"""torch.compile of a model's decoder layers, one code for all of them and for any number of tokens.

Embedding, last norm, head and loss stay as they are, and so does sampling, whose step is a CUDA graph. Checkpointing
and the hooks of sharding are outside of what is compiled. Inductor keeps what it has compiled on disk, so that later
runs only load it.
"""

from __future__ import annotations

from typing import Any

import torch

from tutelage.common.progress import tell
from tutelage.models.attention import hide_from_compiler

_CODES = 64  # per architecture: student and teacher, with and without gradients, adapters on and off, shapes with a 1


def compile_layers(model: Any, training: bool, backend: str = "inductor") -> bool:
    """Compile the decoder layers of a transformers model, in place; they are compiled when they first run in training
    mode, or without `training` in evaluation mode. In the other mode, which hardly pays, they stay as they are.

    Returns whether the model has a list of layers (one of one's own is not looked into). If one cannot be compiled, a
    line says so, and its kind runs as before.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        return False
    import torch._functorch.config as functorch  # takes a second

    hide_from_compiler()
    torch._dynamo.config.recompile_limit = max(_CODES, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.specialize_float = True  # norms' ε and the like: as symbols, a fifth of the time of compiling
    # Of a failure in the backward pass the forward pass should know.
    if hasattr(functorch, "force_non_lazy_backward_lowering"):
        functorch.force_non_lazy_backward_lowering = True
    kinds: dict[type, type] = {}
    for layer in layers:
        kind = type(layer)
        if not hasattr(kind, "compiled_modes"):
            layer.__class__ = kinds.setdefault(kind, kinds.get(kind) or _compiled(kind, backend))
        vars(type(layer))["compiled_modes"].add(training)  # both, for a student that is its teacher without an adapter
    return True


def _compiled(kind: Any, backend: str) -> type:
    """A subclass of a layer's class whose forward pass is compiled, except while there is a cache to fill."""
    from torch._dynamo.exc import TorchDynamoException

    plain = kind.forward
    modes, failed = set[bool](), list[Exception]()
    compiled = torch.compile(plain, dynamic=True, backend=backend)

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if failed or self.training not in modes or named.get("past_key_values") is not None:
            return plain(self, *arguments, **named)
        try:
            return compiled(self, *arguments, **named)
        except TorchDynamoException as error:
            failed.append(error)
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            tell(f"{kind.__name__} cannot be compiled ({reason[:160]}): it runs uncompiled", "note")
            return plain(self, *arguments, **named)

    # A class, not an attribute of the layer: a copy of the model must run its own weights.
    return type(kind.__name__, (kind,), {"forward": forward, "compiled_modes": modes, "__module__": kind.__module__})
