"""A linear map from context to future: a forecaster of its own, or the initial forecast that a pipeline refines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.types import Series


class LinearMap(nn.Module):
    """Linear forecast of each channel from its own samples, relative to the level of the context.

    The forecast is the level plus a linear map of the differences from it, so it does not depend on the units. Has no
    parameters that learn by gradient: `tstk.evaluation.linear_forecast` fits it in closed form.

    Args:
        matrix: [1 or C, T, H], shared by all channels or one per channel
        level_weights: [T] weights of the samples; the level is the weighted sum
    """

    matrix: Tensor
    level_weights: Tensor

    def __init__(self, matrix: Tensor, level_weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("level_weights", level_weights)

    @classmethod
    def repeat_last_value(cls, num_maps: int, context_len: int, horizon: int) -> LinearMap:
        """Return an unfitted map of these sizes, which repeats the last value.

        Args:
            num_maps: 1, or the number of channels
            context_len: T
            horizon: H
        """
        weights = torch.zeros(context_len)
        weights[-1] = 1
        return cls(torch.zeros(num_maps, context_len, horizon), weights)

    def forward(self, series: Series) -> Tensor:
        """Return the forecast [B, C, H] in the units of the series; unobserved samples count as `get_last_value`."""
        x = torch.where(series.observed_mask, series.x, get_last_value(series))
        level = (x * self.level_weights).sum(-1, keepdim=True)
        return level + ((x - level).transpose(0, 1) @ self.matrix).transpose(0, 1)


def get_last_value(series: Series) -> Tensor:
    """Return the last observed sample of each channel, [B, C, 1]; 0 if none was observed."""
    steps = torch.arange(series.x.shape[-1], device=series.x.device)
    last = torch.where(series.observed_mask, steps, -1).amax(-1, keepdim=True)
    return series.x.gather(-1, last.clamp(min=0)) * (last >= 0)
