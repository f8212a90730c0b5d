"""Convolutions along time over series of unequal length: padding neither enters a sum nor counts in a statistic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.nn.reduce import process_sum


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of [B, D, T] over the valid positions alone (Ioffe and Szegedy, arXiv:1502.03167).

    With several processes the statistics are those of their batches together. Running statistics do not move in
    `forward`: it returns those of the batch, for `update` after the step.
    """

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """[B, D, T] -> [B, D, T], anything finite where invalid, and the statistics that `update` takes, [2, D].

        Args:
            x: [B, D, T], zero where invalid
            valid: [B, 1, T], ones and zeros of the dtype of `x`
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return super().forward(x), torch.stack([self.running_mean, self.running_var])
        dtype = torch.promote_types(x.dtype, torch.float32)
        count = process_sum(valid.sum(dtype=dtype)).clamp(min=1)
        loc = process_sum(x.sum((0, 2), dtype=dtype)) / count
        squares = (x - loc[:, None]).square() * valid
        variance = process_sum(squares.sum((0, 2), dtype=dtype)) / count
        slope = self.weight * (variance + self.eps).rsqrt()
        unbiased = variance * (count / (count - 1).clamp(min=1))
        normed = x * slope[:, None] + (self.bias - loc * slope)[:, None]
        return normed.to(x.dtype), torch.stack([loc, unbiased]).detach()

    def update(self, statistics: Tensor) -> None:
        """Move the running statistics towards those of a step, [2, D]."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(statistics[0], self.momentum)
        self.running_var.lerp_(statistics[1], self.momentum)


class InceptionModule(nn.Module):
    """Convolutions of several lengths side by side, normalised together (Ismail Fawaz et al., arXiv:1909.04939, 3.1).

    Args:
        channels: of the input
        width: channels of the output; a branch has a share of them
        kernels: samples under the convolution of each branch, odd, the longest first; one more branch pools over three
    """

    def __init__(self, channels: int, width: int, kernels: Sequence[int]) -> None:
        super().__init__()
        share = width // (len(kernels) + 1)
        self.kernels = tuple(kernels)
        self.bottleneck = nn.Conv1d(channels, share, 1, bias=False) if channels > 1 else nn.Identity()
        entering = share if channels > 1 else channels
        self.branches = nn.ModuleList(nn.Conv1d(entering, share, k, padding=k // 2, bias=False) for k in kernels)
        self.pooled = nn.Conv1d(channels, width - share * len(kernels), 1, bias=False)
        self.norm = MaskedBatchNorm(width)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T] -> [B, width, T], zero where invalid, and the statistics of its normalisation."""
        # one convolution with the shorter kernels padded to the longest costs less than one for each
        longest = self.kernels[0]
        weights = [
            F.pad(cast(Tensor, branch.weight), [(longest - kernel) // 2] * 2)
            for branch, kernel in zip(self.branches, self.kernels, strict=True)
        ]
        convolved = F.conv1d(self.bottleneck(x), torch.cat(weights), padding=longest // 2)
        x, statistics = self.norm(torch.cat([convolved, self.pooled(_highest(x, valid > 0))], 1) * valid, valid)
        return F.relu(x) * valid, statistics


class InceptionNetwork(nn.Module):
    """Inception modules with a shortcut around each group of three (Ismail Fawaz et al., arXiv:1909.04939, 3.1).

    Args:
        channels: of the series
        width: channels inside and of the output
        depth: number of modules
        kernels: samples under the convolution of each branch, odd, the longest first
    """

    def __init__(self, channels: int, width: int, depth: int, kernels: Sequence[int] = (39, 19, 9)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InceptionModule(width if i else channels, width, kernels) for i in range(depth))
        around = range((depth + 2) // 3)
        self.shortcuts = nn.ModuleList(nn.Conv1d(width if i else channels, width, 1, bias=False) for i in around)
        self.norms = nn.ModuleList(MaskedBatchNorm(width) for _ in around)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T] -> [B, width, T], zero where invalid, and the statistics that `update` takes, [L, 2, width].

        Args:
            x: [B, C, T], zero where invalid
            valid: [B, 1, T] bool
        """
        exists, statistics = valid.to(x.dtype), []
        for i, (shortcut, norm) in enumerate(zip(self.shortcuts, self.norms, strict=True)):
            y = x
            for block in self.blocks[3 * i : 3 * i + 3]:
                y, of_block = block(y, exists)
                statistics.append(of_block)
            around, of_shortcut = norm(shortcut(x), exists)
            statistics.append(of_shortcut)
            x = F.relu(y + around) * exists
        return x, torch.stack(statistics)

    def update(self, statistics: Tensor) -> None:
        """Move the running statistics towards those of a step, [L, 2, width]."""
        for norm, of_norm in zip(self._in_order(), statistics, strict=True):
            norm.update(of_norm)

    def _in_order(self) -> list[MaskedBatchNorm]:
        """Normalisations in the order in which `forward` meets them."""
        inside = [block.norm for block in self.blocks]
        found = []
        for i, norm in enumerate(self.norms):
            found += [*inside[3 * i : 3 * i + 3], norm]
        return cast("list[MaskedBatchNorm]", found)


def _highest(x: Tensor, exists: Tensor) -> Tensor:
    """The greatest of each sample and its two neighbours that exist, [B, D, T]; zero where it does not itself."""
    lowest = torch.finfo(x.dtype).min
    x = x.masked_fill(~exists, lowest)
    beside = F.pad(x, (1, 1), value=lowest)
    return torch.maximum(torch.maximum(beside[..., :-2], beside[..., 2:]), x).masked_fill(~exists, 0)
