"""Whether operations run as they are called, without which functions leave their work to those of torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_INTERNALS = ("_are_functorch_transforms_active", "_functorch", "_len_torch_dispatch_stack")
_HAS_INTERNALS = all(hasattr(torch._C, name) for name in _INTERNALS) and hasattr(forward_ad, "_current_level")


def is_traced(*tensors: Tensor) -> bool:
    """Return whether tensors may have no memory of their own, or something but autograd sees the operations on them.

    A compiler, tracing, a transform such as vmap, gradients of several outputs at once, a mode such as a counter of
    operations, forward-mode derivatives and classes of tensors of their own (fake, quantized, distributed) need torch's
    own operations. A kernel that takes addresses must not be called then: that of a fake tensor is 0.
    """
    return (
        torch.compiler.is_compiling()
        or not _HAS_INTERNALS
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
        or any(type(t) not in (Tensor, nn.Parameter) or torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)
    )


def runs_eagerly(*tensors: Tensor) -> bool:
    """Return whether operations on these tensors run at once on a CPU in their own dtype: not traced, no autocast."""
    return (
        not is_traced(*tensors)
        and all(t.device.type == "cpu" for t in tensors)
        and not torch.is_autocast_enabled("cpu")
    )
