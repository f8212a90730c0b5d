"""PyTorch backend: torch's convolutions, in the layout in which oneDNN's are fastest, or a product of matrices."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int, padding: int, transposed: bool, relu: bool
) -> Tensor:
    """See `tstk.kernels.convolution`.

    [B, C, 1, L] with adjacent channels is channels last to torch; of [B, C, L] oneDNN copies inputs and outputs.
    """
    if x.shape[2] == 1 and not transposed:  # a product of matrices is faster
        y = F.linear(F.pad(x[:, :, 0], (padding, padding)).unfold(1, weight.shape[2], stride), weight[:, 0], bias)
        return y.relu_() if relu else y
    convolution = F.conv_transpose2d if transposed else F.conv2d
    y = convolution(x.transpose(1, 2)[:, :, None], weight[:, :, None], bias, (1, stride), (0, padding))[:, :, 0]
    return (y.relu_() if relu else y).transpose(1, 2)
