"""FSDP2: each rank holds a share of every parameter, and a layer's weights are gathered only while it runs.

A decoder layer is gathered before it runs and resharded afterwards, in the forward and the backward pass. Embedding,
last norm and head stay gathered for a whole pass, since the loss needs the head beside the decoder: all code that uses
them runs in `with_whole_weights`. All ranks must therefore make the same passes in the same order.
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

_UNSHARDED = "unsharded"  # key in vars(model): the model before sharding, on the meta device


def many_ranks() -> bool:
    """Whether this process is one of several ranks (WORLD_SIZE > 1)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def ranks_per_host() -> int:
    """How many ranks the launcher started on each host (LOCAL_WORLD_SIZE); all of them where it does not say, or where
    hosts differ."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or world
    return local if world % local == 0 else world


def is_sharded(model: Any) -> bool:
    """Whether `shard` has sharded this model."""
    return _UNSHARDED in vars(model)


def shard(
    model: Any, device: torch.device | str, compute: torch.dtype | None = None, within_host: bool = False
) -> None:
    """Shard a transformers model in place over all ranks, layer by layer, with the weights of the first rank.

    Needs a process group. The first rank's model is on the CPU; the others' may be on the meta device. `compute`: the
    type in which weights are gathered and everything is computed (default: their own). Gradients are summed, over ranks
    and micro-batches, in the parameters' own type in any case. `within_host`: only over the ranks of a host, with
    copies on the others, whose gradients are summed too (HSDP).

    Raises TutelageError if the model has no list of layers, or if the ranks have different models.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    layers = decoder_layers(model)
    _check_same_model(model)
    world, local = dist.get_world_size(), ranks_per_host()
    hosts = world // local if within_host else 1
    shape, names = ((hosts, local), ("hosts", "ranks")) if hosts > 1 else ((world,), ("ranks",))
    mesh = init_device_mesh(torch.device(device).type, shape, mesh_dim_names=names)
    unsharded = copy.deepcopy(model, {id(p): _empty_parameter(p, "meta") for p in model.parameters()})
    learnt = next((p for p in model.parameters() if p.requires_grad), next(model.parameters()))
    reduce_dtype = None if compute is None else learnt.dtype
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    for layer in layers:
        _broadcast_module(layer, device)
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    _broadcast_module(model, device)
    original = type(model)
    # Not resharded after forward: a teacher's head is used after its forward pass.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    # transformers reads the source of a model's class to find out its abilities.
    type(model).__module__ = original.__module__
    model.with_whole_weights = lambda function, *arguments: function(*arguments)
    register_fsdp_forward_method(model, "with_whole_weights")
    vars(model)[_UNSHARDED] = unsharded  # assigned as an attribute, it would become a submodule


def with_whole_weights(model: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call function(*arguments) with the model's parameters gathered; returns its result."""
    return model.with_whole_weights(function, *arguments) if is_sharded(model) else function(*arguments)


def reshard(model: Any) -> None:
    """Reshard embedding and head, which stay gathered after a forward pass without a backward pass.

    Call this before an optimizer or a checkpoint reads the parameters.
    """
    if is_sharded(model):
        model.reshard()


@torch.no_grad()
def same_on_all_ranks(model: nn.Module) -> None:
    """Set the parameters of a model that is not sharded to the first rank's; all ranks call this."""
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)


@torch.no_grad()
def sum_gradients(model: nn.Module) -> None:
    """Replace the gradients of a model that is not sharded by their sums over all ranks, which call this together."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    for parameter in learnt:  # one that no micro-batch of this rank used, such as an expert's
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sums = [dist.all_reduce(parameter.grad, async_op=True) for parameter in learnt]
    for one in sums:
        assert one is not None
        one.wait()


def gathered(parameter: Tensor) -> Tensor:
    """The parameter as one plain tensor; if it is sharded, all ranks must call this together.

    This is the only function that gathers parameters by hand. Its backward sums the gradients of all ranks into the
    shards.
    """
    if not hasattr(parameter, "full_tensor"):
        return parameter
    from torch.distributed.tensor import Partial

    return parameter.full_tensor(grad_placements=[Partial()] * parameter.device_mesh.ndim)  # type: ignore[attr-defined]


def local_part(parameter: Tensor) -> Tensor:
    """This rank's share of a parameter; a plain parameter as it is."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter  # type: ignore[attr-defined]


@torch.no_grad()
def assign(parameter: Tensor, value: Tensor) -> None:
    """Set a parameter, sharded or not, to a plain tensor of its full shape, which every rank has."""
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        where: Any = parameter
        value = distribute_tensor(value, where.device_mesh, where.placements, src_data_rank=None)
    parameter.copy_(value)


@torch.no_grad()
def copy_weights(source: Any, target: Any, learnt: bool = False) -> None:
    """Copy all parameters of a model, sharded or not, into a plain model of the same architecture, one at a time.

    `learnt`: only those that training changes; the target has the others already.
    """
    parameters = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if parameters[name].requires_grad or not learnt:
            parameter.copy_(gathered(parameters[name]))


def plain_copy(model: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Any:
    """A frozen, unsharded copy of a model. All ranks of a sharded model must call this together; each gets a full copy.

    Parameters are in `dtype` and on `device` (default: their own); on "meta" they have no values. Buffers (rotary
    frequencies) keep their type.
    """
    unsharded = vars(model)[_UNSHARDED] if is_sharded(model) else model
    sources = dict(model.named_parameters())
    copies: dict[int, Any] = {}
    for name, parameter in unsharded.named_parameters():
        target = sources[name].device if device is None else torch.device(device)
        copies[id(parameter)] = _empty_parameter(parameter, target, dtype).requires_grad_(False)
    buffers = dict(model.named_buffers())
    copies |= {id(b): buffers[n].to(device or buffers[n].device, copy=True) for n, b in unsharded.named_buffers()}
    out = copy.deepcopy(unsharded, copies)
    out.config._attn_implementation = model.config._attn_implementation  # chosen after sharding
    copy_weights(model, out)
    return out


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder's blocks. Raises TutelageError for an architecture without a list `layers`."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise TutelageError(
            f"cannot find the layers of {type(model).__name__}: only models with `layers` can be cut or sharded"
        )
    return layers


def _empty_parameter(parameter: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> nn.Parameter:
    made = torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device=device)
    return nn.Parameter(made, requires_grad=parameter.requires_grad)


def _check_same_model(model: Any) -> None:
    """Raise TutelageError if ranks disagree about a shape or type: they would deadlock in their first collective."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    layout = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors]
    layouts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(layouts, layout)
    difference = next((part for part, first in zip(layout, layouts[0], strict=False) if part != first), None)
    if any(other != layouts[0] for other in layouts):
        where = difference or "see other ranks"
        raise TutelageError(f"training.shard: the ranks have loaded different models ({where})")


@torch.no_grad()
def _broadcast_module(module: nn.Module, device: torch.device | str) -> None:
    """Move parameters and buffers that are not sharded yet to the device, with the first rank's values.

    Tied parameters stay tied.
    """
    moved: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if hasattr(parameter, "full_tensor"):
                continue
            if id(parameter) not in moved:
                moved[id(parameter)] = nn.Parameter(_broadcast(parameter, device), parameter.requires_grad)
            owner.register_parameter(name, moved[id(parameter)])
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = _broadcast(buffer, device)


def _broadcast(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The first rank's values of a tensor, on every rank."""
    is_first = dist.get_rank() == 0
    out = tensor.to(device).contiguous() if is_first else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    dist.broadcast(out, 0)
    return out
