"""Helpers for several processes, and for tensors that FSDP shards over them: read and fill them as full tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn


def get_world_size() -> int:
    """Return the number of processes that train together, 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def max_over_processes(*values: int) -> list[int]:
    """Return the largest of each value over all processes, which must all call this."""
    if get_world_size() == 1:
        return list(values)
    maxima = torch.tensor(values, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(maxima, distributed.ReduceOp.MAX)
    return [int(value) for value in maxima.tolist()]


def full_tensor(value: Tensor) -> Tensor:
    """Return a detached tensor, gathered if it is sharded; every process must call this."""
    return value.detach().full_tensor() if _is_sharded(value) else value.detach()  # type: ignore[attr-defined]


@torch.no_grad()
def copy_into(destination: Tensor, source: Tensor) -> None:
    """Copy a full tensor into one that may be sharded."""
    if _is_sharded(destination):
        from torch.distributed.tensor import distribute_tensor

        source = distribute_tensor(source.to(destination.device), destination.device_mesh, destination.placements)  # type: ignore[attr-defined]
    destination.copy_(source)


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module, with full tensors."""
    return {name: full_tensor(value) for name, value in module.state_dict().items()}


def load_full_state_dict(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict of full tensors into a module that may be sharded."""
    for name, destination in module.state_dict().items():
        copy_into(destination, state_dict[name])


def register_fsdp_methods(module: nn.Module, *method_names: str) -> None:
    """Register methods before which FSDP must unshard the parameters, as it does before `forward`."""
    if any(_is_sharded(p) for p in module.parameters()):
        from torch.distributed.fsdp import register_fsdp_forward_method

        for name in method_names:
            register_fsdp_forward_method(module, name)


def _is_sharded(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")
