"""Changes to training series that leave their meaning alone, drawn anew in each step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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


def mix(series: Series, alpha: float, classes: int, draws: Draws) -> Series:
    """Each labelled series blended with another of the batch, and their labels with them (mixup, Zhang et al. 2018).

    Where only one of the two was observed, it stands alone.

    Args:
        series: x [B, C, T], y [B] class index, -1 where unknown
        alpha: the share of the series itself is drawn from Beta(alpha, alpha)
        classes: number of classes, K
        draws: two uniform numbers per series are taken; they do not depend on the batch, but who meets whom does

    Returns:
        y [B, K] holds the shares of the classes; none where a label is unknown
    """
    from scipy.special import betaincinv

    assert series.y is not None
    order = draws.uniform().argsort()
    partner = torch.empty_like(order).scatter_(0, order, order.roll(1))
    uniform = draws.uniform().double().cpu().numpy()
    share = torch.from_numpy(betaincinv(alpha, alpha, uniform)).to(series.x)
    label = F.one_hot(series.y.clamp(min=0), classes) * (series.y >= 0)[:, None]

    def blend(mine: Tensor) -> Tensor:
        part = share.reshape(-1, *[1] * (mine.ndim - 1))
        return part * mine + (1 - part) * mine[partner]

    x, mask, other = blend(series.x), series.mask, series.mask[partner]
    if series.observed is None:
        return series.but(x=x, y=blend(label))
    alone = torch.where(mask, series.x, series.x[partner])
    return series.but(x=torch.where(mask & other, x, alone), observed=mask | other, y=blend(label))
