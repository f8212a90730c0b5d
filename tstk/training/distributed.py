"""Tensors of which every process may hold a part only (FSDP): made whole, and filled from whole ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def whole(value: Tensor) -> Tensor:
    """All of a tensor, detached; where processes hold parts of it, all must ask."""
    return value.detach().full_tensor() if _sharded(value) else value.detach()  # type: ignore[attr-defined]


@torch.no_grad()
def put(mine: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be held in parts."""
    if _sharded(mine):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(mine.device), mine.device_mesh, mine.placements)  # type: ignore[attr-defined]
    mine.copy_(value)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, whole."""
    return {name: whole(value) for name, value in module.state_dict().items()}


def put_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a module with whole parameters and buffers."""
    for name, mine in module.state_dict().items():
        put(mine, state[name])


def callable_apart(module: nn.Module, *names: str) -> None:
    """Let these methods gather the parts of weights as `forward` does."""
    if any(_sharded(p) for p in module.parameters()):
        from torch.distributed.fsdp import register_fsdp_forward_method

        for name in names:
            register_fsdp_forward_method(module, name)


def _sharded(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")
