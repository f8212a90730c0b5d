"""A linear map from context to future: a forecaster on its own, or what a pipeline starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.types import Series


class LinearMap(nn.Module):
    """Forecast each channel linearly in its own samples, relative to a level of the context.

    The level and its multiples pass unchanged, so the map is the same in any units. Nothing of it learns by gradients:
    `tstk.evaluation.linear_forecast` solves for it.

    Args:
        matrix: [1 or C, T, H], for all channels or of each
        weights: [T] of the samples whose weighted sum is the level
    """

    matrix: Tensor
    weights: Tensor

    def __init__(self, matrix: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("weights", weights)

    @classmethod
    def of_last_value(cls, maps: int, context: int, horizon: int) -> LinearMap:
        """Repeat the last value: a map of the given sizes that nothing was fitted to.

        Args:
            maps: 1, or the number of channels
            context: T
            horizon: H
        """
        weights = torch.zeros(context)
        weights[-1] = 1
        return cls(torch.zeros(maps, context, horizon), weights)

    def forward(self, series: Series) -> Tensor:
        """[B, C, H] in the units of the series; a missing sample counts as the latest observed one."""
        x = torch.where(series.mask, series.x, last_value(series))
        level = (x * self.weights).sum(-1, keepdim=True)
        return level + ((x - level).transpose(0, 1) @ self.matrix).transpose(0, 1)


def last_value(series: Series) -> Tensor:
    """[B, C, 1], each channel's latest sample that was observed; 0 if none was."""
    steps = torch.arange(series.x.shape[-1], device=series.x.device)
    last = torch.where(series.mask, steps, -1).amax(-1, keepdim=True)
    return series.x.gather(-1, last.clamp(min=0)) * (last >= 0)
