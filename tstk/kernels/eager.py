"""Whether operations run as they are called; if not, functions leave their work to operations of torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_traced(*tensors: Tensor) -> bool:
    """Return whether tensors may have no memory of their own, or operations are recorded.

    So it is under `torch.compile`, in exported graphs, in transforms such as `vmap` and in modes such as a counter of
    operations. A kernel that takes addresses must not be called then: that of a fake tensor is 0.
    """
    return torch.compiler.is_compiling() or (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or any(type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__ for x in tensors)
    )


def runs_eagerly(*tensors: Tensor) -> bool:
    """Return whether operations on these tensors run at once on a CPU, recorded by nothing but autograd.

    Beside what is traced, autocast, forward-mode derivatives and classes of tensors of their own (quantized,
    distributed) need to see torch's own operations.
    """
    return (
        not torch.compiler.is_compiling()
        and all(t.device.type == "cpu" and type(t) in (Tensor, nn.Parameter) for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and not is_traced(*tensors)
    )
