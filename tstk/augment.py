"""Changes to training series that leave their meaning alone, drawn anew in each step."""

from __future__ import annotations

import torch

from tstk.draws import Draws
from tstk.records import Series


def crop(series: Series, size: int, draws: Draws) -> Series:
    """`size` consecutive samples of each series, from a place of its own; a shorter series stays whole.

    Args:
        series: x [B, C, T]
        size: samples to keep
        draws: one uniform number per series is taken
    """
    x, observed = series.x, series.observed
    b, c, t = x.shape
    if t <= size:
        return series
    ends = torch.arange(1, t + 1, device=x.device)
    lengths = ends[-1:].expand(b) if observed is None else (observed.any(1) * ends).amax(1)
    start = (draws.uniform() * (lengths - size + 1).clamp(min=1)).long()
    index = (start[:, None] + ends[:size] - 1)[:, None].expand(-1, c, -1)
    return series.but(x=x.gather(2, index), observed=None if observed is None else observed.gather(2, index))
