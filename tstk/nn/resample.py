"""Linear interpolation of series: observed lengths, values between samples, filling of gaps."""

from __future__ import annotations

import torch
from torch import Tensor


def observed_lengths(observed: Tensor) -> Tensor:
    """Return the number of samples up to the last one observed in any channel, [B] long.

    Args:
        observed: [B, C, T] bool
    """
    return (observed.any(1) * torch.arange(1, observed.shape[2] + 1, device=observed.device)).amax(1)


def interpolate_samples(x: Tensor, positions: Tensor) -> Tensor:
    """Interpolate linearly between the samples on both sides of each position.

    Args:
        x: [B, C, T]
        positions: [B, P] in samples, from 0 to T - 1

    Returns:
        [B, C, P]
    """
    last = x.shape[2] - 1
    floor = positions.floor().clamp(0, last)
    fraction = (positions - floor)[:, None].to(x.dtype)
    before = floor.long()
    after = torch.where(fraction[:, 0] > 0, before + 1, before).clamp(max=last)

    def gather(index: Tensor) -> Tensor:
        return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))

    return torch.lerp(gather(before), gather(after), fraction)


def fill_gaps(x: Tensor, observed: Tensor) -> Tensor:
    """Fill unobserved samples by linear interpolation within the channel, and with the nearest sample at the ends.

    Args:
        x: [B, C, T], 0 where unobserved
        observed: [B, C, T] bool

    Returns:
        [B, C, T]; 0 in a channel without any observed sample
    """
    length = x.shape[2]
    time = torch.arange(length, device=x.device)
    before = torch.where(observed, time, -1).cummax(2).values
    after = torch.where(observed, time, length).flip(2).cummin(2).values.flip(2)
    left = torch.where(before < 0, after, before).clamp(max=length - 1)
    right = torch.where(after == length, before, after).clamp(min=0)
    fraction = (time - left) / (right - left).clamp(min=1)
    return torch.lerp(x.gather(2, left), x.gather(2, right), fraction.to(x.dtype))
