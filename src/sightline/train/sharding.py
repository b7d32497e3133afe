"""Parameters that are spread over the ranks: torch's ``fully_shard`` (FSDP: Zhao et al. 2023, arXiv 2304.11277).

Every layer of a policy is a unit, and so is what is left of it: embeddings, norms, projector, LM head. A rank keeps
its part of each parameter, gradient and optimizer state, and has a unit whole only while it is computed. Gathering a
unit and reducing its gradients are collective: all ranks must compute the same units in the same order
(``train.lockstep``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sightline.errors import UnsupportedError
from sightline.models.policy import Policy
from sightline.models.quantized import check_not_spread

_MESHES: dict[str, DeviceMesh] = {}
"""Of this process: all ranks in one row, by type of device."""

_WHOLE: WeakSet[Policy] = WeakSet()
"""Policies that are whole for now."""


def all_ranks(device_type: str, size: int) -> DeviceMesh:
    """The ranks that parameters are spread over."""
    if device_type not in _MESHES:
        _MESHES[device_type] = init_device_mesh(device_type, (size,))
    return _MESHES[device_type]


def forget_groups() -> None:
    """Lets go of the process groups that meshes hold: torch keeps the meshes themselves in caches of tensor
    operations till the interpreter ends, and with them the groups and their threads."""
    for mesh in _MESHES.values():
        vars(mesh).get("_pg_registry", {}).clear()
    _MESHES.clear()


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Spreads the parameters over the ranks of ``mesh``, layer by layer and onto its device, in place.

    Every rank calls, with the same parameters.

    Raises:
        UnsupportedError: a model without layers that could be told, or one that is quantised.
    """
    check_not_spread(policy)
    units = policy.layers()
    if not units:
        raise UnsupportedError(
            f"{type(policy.base).__name__} marks no layers, so it would be gathered as a whole. "
            "Set train.distribution to ddp"
        )
    heads = (policy.score_head, policy.value_head)
    units += [head for head in heads if head is not None]  # float32 in a model that may not be
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    register_fsdp_forward_method(policy, "encode")
    policy.register_forward_hook(_drop_rest)
    _start(policy)


def _drop_rest(policy: Policy, inputs: Any, output: Any) -> None:
    """What is outside the layers stays whole for a backward pass; where none comes, it is let go."""
    if not torch.is_grad_enabled() and policy not in _WHOLE:
        policy.reshard()  # type: ignore[operator]


def _start(policy: Policy) -> None:
    """A call without work: fully_shard takes the module that is called first for the outermost."""
    vars(policy)["forward"] = lambda: None
    with torch.no_grad():
        policy()
    del vars(policy)["forward"]


def is_sharded(module: nn.Module) -> bool:
    """Whether every parameter is spread, as found in the module itself."""
    return all(isinstance(parameter, DTensor) for parameter in module.parameters())


@contextmanager
def whole(policy: Policy) -> Iterator[None]:
    """All parameters whole on every rank, so that ranks may compute what they like without gradients, each in its own
    order; spread again on leaving. Takes the memory of the whole model. Every rank must enter and leave.
    """
    units = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    try:
        _WHOLE.add(policy)
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
    finally:
        _WHOLE.discard(policy)
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not policy, recurse=False)


@torch.no_grad()
def gathered(state: Any, *, keep: bool, known: dict[int, Tensor] | None = None) -> Any:
    """The same nested state with whole tensors on the CPU. Every rank calls, with a state of the same order.

    Args:
        state: mappings, lists and tuples of anything.
        keep: False: this rank only helps, and gets empty tensors.
        known: by identity, what was gathered before: tied tensors stay one.
    """
    known = {} if known is None else known
    if isinstance(state, DTensor):
        if id(state) not in known:
            full = state.full_tensor()
            known[id(state)] = full.cpu() if keep else full.new_empty(0)
        return known[id(state)]
    if isinstance(state, Mapping):
        return {name: gathered(value, keep=keep, known=known) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value, keep=keep, known=known) for value in state)
    return state


def scattered(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, spread as ``like`` is. Nothing is sent: every rank has the whole."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def scattered_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A state dict of whole tensors as ``optimizer`` takes it: moments spread as their parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        index: {
            name: scattered(value, parameters[index]) if value.shape == parameters[index].shape else value
            for name, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    return {**state, "state": spread}
