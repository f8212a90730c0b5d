"""Reference implementation: a sum over windows of the samples, in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int, padding: int, transposed: bool, relu: bool
) -> Tensor:
    """See `tstk.kernels.convolution`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    values, kernel, size = x.to(dtype), weight.to(dtype), weight.shape[-1]
    if transposed:  # a convolution of samples with zeros between them
        values = F.pad(values[:, :, None], (0, 0, 0, stride - 1)).flatten(1, 2)[:, : (x.shape[1] - 1) * stride + 1]
        kernel, padding, stride = kernel.transpose(0, 1).flip(-1), size - 1 - padding, 1
    windows = F.pad(values, (0, 0, padding, padding)).unfold(1, size, stride)
    y = torch.einsum("blck,dck->bld", windows, kernel)
    y = y if bias is None else y + bias.to(dtype)
    return (y.relu() if relu else y).to(x.dtype)
