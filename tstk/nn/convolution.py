"""Convolutions along time over series of unequal length; padding affects neither outputs nor statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.nn.reduce import all_reduce_sum


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of [B, D, T] over valid positions only (Ioffe and Szegedy, arXiv:1502.03167).

    With several processes, statistics are computed over the batches of all of them. `forward` does not change the
    running statistics: it returns those of the batch, to be passed to `update` after the optimizer step.
    """

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the normalised input and the batch statistics.

        Args:
            x: [B, D, T], zero where invalid
            valid: [B, 1, T], ones and zeros of the dtype of `x`

        Returns:
            [B, D, T], finite but arbitrary where invalid; and mean and unbiased variance for `update`, [2, D]
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return super().forward(x), torch.stack([self.running_mean, self.running_var])
        dtype = torch.promote_types(x.dtype, torch.float32)
        count = all_reduce_sum(valid.sum(dtype=dtype)).clamp(min=1)
        loc = all_reduce_sum(x.sum((0, 2), dtype=dtype)) / count
        squares = (x - loc[:, None]).square() * valid
        variance = all_reduce_sum(squares.sum((0, 2), dtype=dtype)) / count
        slope = self.weight * (variance + self.eps).rsqrt()
        unbiased = variance * (count / (count - 1).clamp(min=1))
        normed = x * slope[:, None] + (self.bias - loc * slope)[:, None]
        return normed.to(x.dtype), torch.stack([loc, unbiased]).detach()

    def update(self, statistics: Tensor) -> None:
        """Update the running statistics with those of a step, [2, D]."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(statistics[0], self.momentum)
        self.running_var.lerp_(statistics[1], self.momentum)


class InceptionModule(nn.Module):
    """Parallel convolutions of several lengths, then batch norm (Ismail Fawaz et al., arXiv:1909.04939, section 3.1).

    Args:
        in_channels: channels of the input
        out_channels: channels of the output, divided equally among the branches
        kernel_sizes: odd kernel size of each convolution branch, the longest first; one more branch max-pools over 3
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        width = out_channels // (len(kernel_sizes) + 1)
        self.kernel_sizes = tuple(kernel_sizes)
        self.bottleneck = nn.Conv1d(in_channels, width, 1, bias=False) if in_channels > 1 else nn.Identity()
        branch_in = width if in_channels > 1 else in_channels
        self.branches = nn.ModuleList(nn.Conv1d(branch_in, width, k, padding=k // 2, bias=False) for k in kernel_sizes)
        self.pool_conv = nn.Conv1d(in_channels, out_channels - width * len(kernel_sizes), 1, bias=False)
        self.norm = MaskedBatchNorm(out_channels)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, T] to [B, out_channels, T], zero where invalid; also return the statistics of the norm, [2, D]."""
        # One convolution with all kernels padded to the longest is faster than one convolution per branch.
        longest = self.kernel_sizes[0]
        weights = [
            F.pad(cast(Tensor, branch.weight), [(longest - kernel) // 2] * 2)
            for branch, kernel in zip(self.branches, self.kernel_sizes, strict=True)
        ]
        convolved = F.conv1d(self.bottleneck(x), torch.cat(weights), padding=longest // 2)
        x, statistics = self.norm(
            torch.cat([convolved, self.pool_conv(_masked_max_pool(x, valid > 0))], 1) * valid, valid
        )
        return F.relu(x) * valid, statistics


class InceptionNetwork(nn.Module):
    """Inception modules with a shortcut around each group of three (Ismail Fawaz et al., arXiv:1909.04939, 3.1).

    Args:
        channels: channels of the series
        width: channels of every module and of the output
        depth: number of modules
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InceptionModule(width if i else channels, width, (39, 19, 9)) for i in range(depth))
        groups = range((depth + 2) // 3)
        self.shortcuts = nn.ModuleList(nn.Conv1d(width if i else channels, width, 1, bias=False) for i in groups)
        self.norms = nn.ModuleList(MaskedBatchNorm(width) for _ in groups)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the statistics of all norms.

        Args:
            x: [B, C, T], zero where invalid
            valid: [B, 1, T] bool

        Returns:
            [B, width, T], zero where invalid; and the batch statistics for `update`, [L, 2, width] for L norms
        """
        weight, statistics = valid.to(x.dtype), []
        for i, (shortcut, norm) in enumerate(zip(self.shortcuts, self.norms, strict=True)):
            y = x
            for block in self.blocks[3 * i : 3 * i + 3]:
                y, block_statistics = block(y, weight)
                statistics.append(block_statistics)
            residual, shortcut_statistics = norm(shortcut(x), weight)
            statistics.append(shortcut_statistics)
            x = F.relu(y + residual) * weight
        return x, torch.stack(statistics)

    def update(self, statistics: Tensor) -> None:
        """Update the running statistics with those of a step, [L, 2, width]."""
        for norm, norm_statistics in zip(self._list_norms(), statistics, strict=True):
            norm.update(norm_statistics)

    def _list_norms(self) -> list[MaskedBatchNorm]:
        """Return the norms in the order in which `forward` applies them."""
        block_norms = [block.norm for block in self.blocks]
        norms = []
        for i, norm in enumerate(self.norms):
            norms += [*block_norms[3 * i : 3 * i + 3], norm]
        return cast("list[MaskedBatchNorm]", norms)


def _masked_max_pool(x: Tensor, valid: Tensor) -> Tensor:
    """Max-pool [B, D, T] over 3 samples with stride 1, ignoring invalid samples; zero where invalid."""
    lowest = torch.finfo(x.dtype).min
    x = x.masked_fill(~valid, lowest)
    padded = F.pad(x, (1, 1), value=lowest)
    return torch.maximum(torch.maximum(padded[..., :-2], padded[..., 2:]), x).masked_fill(~valid, 0)
