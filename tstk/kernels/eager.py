"""Whether operations run as they are called, without which functions leave their work to those of torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_INTERNALS = ("_are_functorch_transforms_active", "_len_torch_dispatch_stack")
_HAS_INTERNALS = all(hasattr(torch._C, name) for name in _INTERNALS) and hasattr(forward_ad, "_current_level")


def runs_eagerly(*tensors: Tensor) -> bool:
    """Return whether operations on these tensors run at once on a CPU, recorded by nothing but autograd.

    A compiler, tracing, autocast, a transform such as vmap, a mode such as a counter of operations, forward-mode
    derivatives and classes of tensors of their own (quantized, distributed) need to see torch's own operations.
    """
    return (
        _HAS_INTERNALS
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(t.device.type == "cpu" and type(t) in (Tensor, nn.Parameter) for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )
