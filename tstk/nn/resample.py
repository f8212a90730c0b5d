"""Series at other places than their samples: lengths, gaps bridged, values between samples by linear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.core.types import Series


def lengths(series: Series) -> Tensor:
    """Return the number of samples up to the last that was observed in any channel, [B] long."""
    ends = torch.arange(1, series.x.shape[2] + 1, device=series.x.device)
    if series.observed is None:
        return ends[-1:].expand(series.x.shape[0])
    return (series.observed.any(1) * ends).amax(1)


def sample_at(x: Tensor, places: Tensor) -> Tensor:
    """Interpolate linearly between the samples on both sides of each place.

    Args:
        x: [B, C, T]
        places: [B, P] in samples, from 0 to T - 1

    Returns:
        [B, C, P]
    """
    last = x.shape[2] - 1
    low = places.floor().clamp(0, last)
    part = (places - low)[:, None].to(x.dtype)
    before = low.long()
    after = torch.where(part[:, 0] > 0, before + 1, before).clamp(max=last)

    def gather(index: Tensor) -> Tensor:
        return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))

    return torch.lerp(gather(before), gather(after), part)


def fill_gaps(x: Tensor, observed: Tensor) -> Tensor:
    """Replace unobserved samples by linear interpolation of their channel, and by its nearest sample at both ends.

    Args:
        x: [B, C, T], 0 where unobserved
        observed: [B, C, T] bool

    Returns:
        [B, C, T]; 0 in a channel without any observed sample
    """
    count = x.shape[2]
    time = torch.arange(count, device=x.device)
    before = torch.where(observed, time, -1).cummax(2).values
    after = torch.where(observed, time, count).flip(2).cummin(2).values.flip(2)
    left = torch.where(before < 0, after, before).clamp(max=count - 1)
    right = torch.where(after == count, before, after).clamp(min=0)
    part = (time - left) / (right - left).clamp(min=1)
    return torch.lerp(x.gather(2, left), x.gather(2, right), part.to(x.dtype))
