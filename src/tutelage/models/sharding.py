"""A model in parts, one a rank (FSDP2): each rank keeps a share of every parameter, and layers are whole only in use.

A decoder layer is gathered when it runs and let go afterwards, forward and backward. Embedding, last norm and head are
gathered for a whole pass, since the loss needs the head beside the decoder: everything that touches them runs `inside`
the model. All ranks must therefore make the same passes in the same order.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tutelage.common.errors import TutelageError

_BLANK = "unsharded"


def many_ranks() -> bool:
    """Whether this process is one of several ranks: alone it holds everything anyway."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_sharded(model: Any) -> bool:
    return _BLANK in vars(model)


def shard(model: Any, device: torch.device | str, compute: torch.dtype | None = None) -> None:
    """Shard a transformers model in place over all ranks, layer by layer, with the weights of the first rank.

    The first rank's model is on the CPU, the others' may be on "meta". Needs a process group. `compute`: what autocast
    computes in, if it is on. Layers are then gathered in that type: autocast would make the same copies after gathering
    twice the bytes, and keep them until backward. Gradients are summed in the parameters' own type either way.
    Embedding, last norm and head stay as they are, so that what runs through the layers is float32 as it always was.

    Raises TutelageError where the layers cannot be found, or ranks have different models.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    layers = decoder_layers(model)
    _refuse_differences(model)
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    blank = copy.deepcopy(model, {id(p): _empty(p, "meta") for p in model.parameters()})
    wide = None if compute is None else next(model.parameters()).dtype
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=wide, cast_forward_inputs=False)
    for layer in layers:
        _from_first_rank(layer, device)
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    _from_first_rank(model, device)
    kind = type(model)
    rest = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, mp_policy=rest, reshard_after_forward=False)  # a teacher's head is used after it
    type(model).__module__ = kind.__module__  # transformers reads the source of a model's class to know what it can do
    model.with_whole_weights = lambda function, *arguments: function(*arguments)
    register_fsdp_forward_method(model, "with_whole_weights")
    vars(model)[_BLANK] = blank  # not as an attribute: it would become a part of the model


def with_whole_weights(model: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), while the model's parameters are whole in their turn."""
    return model.with_whole_weights(function, *arguments) if is_sharded(model) else function(*arguments)


def reshard(model: Any) -> None:
    """Embedding and head stay whole after a pass that no backward pass follows. Before the parameters themselves are
    looked at (by an optimizer, a checkpoint), they must be shares again."""
    if is_sharded(model):
        model.reshard()


def gathered(parameter: Tensor) -> Tensor:
    """A parameter as one plain tensor. The only place where parameters are gathered by hand: by all ranks at once.

    Gradients of all ranks are summed back into the shards.
    """
    if not hasattr(parameter, "full_tensor"):
        return parameter
    from torch.distributed.tensor import Partial

    return parameter.full_tensor(grad_placements=[Partial()] * parameter.device_mesh.ndim)  # type: ignore[attr-defined]


def local_part(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter  # type: ignore[attr-defined]


@torch.no_grad()
def assign(parameter: Tensor, value: Tensor) -> None:
    """Set a parameter, sharded or not, to a plain tensor that every rank has."""
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        where: Any = parameter
        value = distribute_tensor(value, where.device_mesh, where.placements, src_data_rank=None)
    parameter.copy_(value)


@torch.no_grad()
def copy_weights(source: Any, target: Any) -> None:
    """All parameters of a model, sharded or not, into a plain one of the same form, one at a time."""
    known = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        parameter.copy_(gathered(known[name]))


def plain_copy(model: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Any:
    """A frozen copy that is sharded no more. All ranks call this together, and each gets the whole, or
    on the device "meta" its form alone.

    Parameters in `dtype` (default: their own); buffers (rotary frequencies) stay as they are.
    """
    blank = vars(model)[_BLANK] if is_sharded(model) else model
    sources = dict(model.named_parameters())
    known: dict[int, Any] = {}
    for name, parameter in blank.named_parameters():
        place = sources[name].device if device is None else torch.device(device)
        known[id(parameter)] = _empty(parameter, place, dtype).requires_grad_(False)
    buffers = dict(model.named_buffers())
    known |= {id(b): buffers[n].to(device or buffers[n].device, copy=True) for n, b in blank.named_buffers()}
    out = copy.deepcopy(blank, known)
    out.config._attn_implementation = model.config._attn_implementation  # it may have been chosen since
    copy_weights(model, out)
    return out


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of the decoder's blocks."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise TutelageError(
            f"cannot find the layers of a {type(model).__name__}: only models with `layers` can be cut or sharded"
        )
    return layers


def _empty(parameter: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> nn.Parameter:
    made = torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device=device)
    return nn.Parameter(made, requires_grad=parameter.requires_grad)


def _refuse_differences(model: Any) -> None:
    """Ranks that disagree about a shape would wait for each other for ever."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    form = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors]
    forms: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(forms, form)
    odd = next((part for part, first in zip(form, forms[0], strict=False) if part != first), None)
    if any(other != forms[0] for other in forms):
        raise TutelageError(f"training.shard: the ranks have loaded different models ({odd or 'see other ranks'})")


@torch.no_grad()
def _from_first_rank(module: nn.Module, device: torch.device | str) -> None:
    """Bring what is not sharded yet to the device, with the first rank's values. Tied parameters stay one."""
    moved: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if hasattr(parameter, "full_tensor"):
                continue
            if id(parameter) not in moved:
                moved[id(parameter)] = nn.Parameter(_received(parameter, device), parameter.requires_grad)
            owner.register_parameter(name, moved[id(parameter)])
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = _received(buffer, device)


def _received(tensor: Tensor, device: torch.device | str) -> Tensor:
    mine = dist.get_rank() == 0
    out = tensor.to(device).contiguous() if mine else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    dist.broadcast(out, 0)
    return out
