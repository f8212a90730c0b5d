"""What a shape is: a curve of mean 0 and deviation 1 that a code stands for, and the stretch of a series under it.

`ShapeDecoder` turns codes into curves; `excerpts` cuts out what lies under them; `laid` puts curves back in their
places; `crowding` says how many of them tell the same story.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.errors import OptionError


class _Residual(nn.Module):
    """Two convolutions over time around a residual, norm and GELU before each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(min(16, inputs), inputs),
            nn.GELU(),
            nn.Conv1d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(min(16, outputs), outputs),
            nn.GELU(),
            nn.Conv1d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[M, inputs, T] -> [M, outputs, T]."""
        return self.skip(x) + self.body(x)


class ShapeDecoder(nn.Module):
    """Codes to curves, by convolutions that widen time from `points / 16` steps to `points`.

    Args:
        code_dim: width of a code
        points: samples of a curve, a multiple of 16, 32 or more
        width: channels of the convolutions; a multiple of 32, or one of 2, 4, 8, 16
        smooth: width of the last convolution, an odd number

    Raises:
        OptionError: one of these is not so
    """

    def __init__(self, code_dim: int, *, points: int = 128, width: int = 128, smooth: int = 1) -> None:
        super().__init__()
        if points < 32 or points % 16:
            raise OptionError(f"tokenizer.points={points}: expected a multiple of 16, 32 or more")
        if width < 2 or (width % 32 and width not in (2, 4, 8, 16)):
            raise OptionError(f"tokenizer.shape_width={width}: expected a multiple of 32, or 2, 4, 8 or 16")
        if smooth < 1 or smooth % 2 == 0:
            raise OptionError(f"tokenizer.smooth={smooth}: expected an odd number")
        self.width = width
        self.enter = nn.Linear(code_dim, width * (points // 16))
        self.body = nn.Sequential(
            _Residual(width, width),
            nn.GELU(),
            nn.Upsample(scale_factor=4),
            nn.Conv1d(width, width, 3, padding=1),
            _Residual(width, width // 2),
            nn.GELU(),
            nn.Upsample(scale_factor=4),
            nn.Conv1d(width // 2, width // 2, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width // 2, 1, smooth, padding=smooth // 2),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """[..., code_dim] -> [..., points], mean 0 and deviation 1."""
        x = self.enter(codes.flatten(0, -2)).unflatten(-1, (self.width, -1))
        curve = self.body(x)[:, 0]
        curve = curve.to(torch.promote_types(curve.dtype, torch.float32))
        curve = curve - curve.mean(-1, keepdim=True)
        # a floor far below any curve that has learnt something keeps a flat one from dividing by zero
        curve = curve / (curve.square().mean(-1, keepdim=True) + 1e-10).sqrt()
        return curve.unflatten(0, codes.shape[:-1])

    @torch.no_grad()
    def slopes(self, codes: Tensor) -> Tensor:
        """How the curves change with each number of the codes: [K, code_dim] -> [K, code_dim, points]; no gradient."""
        count, width = codes.shape
        ways = torch.eye(width, device=codes.device, dtype=codes.dtype).repeat(count, 1)
        with torch.autocast(codes.device.type, enabled=False):
            found: Tensor = torch.func.jvp(self.forward, (codes.repeat_interleave(width, 0),), (ways,))[1]
        return found.unflatten(0, (count, width))


@torch.no_grad()
def excerpts(x: Tensor, start: Tensor, length: Tensor, points: int, samples: Tensor) -> Tensor:
    """Stretches of series, read off at equally spaced points by linear interpolation; no gradient.

    Args:
        x: [B, T] series
        start: [B, N] where a stretch begins, as a share of the series
        length: [B, N] how long it is, likewise; what reaches beyond the end is cut off
        points: samples to read
        samples: [B] long, how many of the T samples are the series

    Returns:
        [B, N, points]
    """
    last = (samples - 1).clamp(min=0).to(start.dtype)[:, None]
    begin, end = start * last, (start + length).clamp(max=1) * last
    steps = torch.linspace(0, 1, points, device=x.device, dtype=start.dtype)
    at = begin[..., None] + (end - begin)[..., None] * steps
    left = at.floor().clamp(min=0)
    right = (left + 1).minimum(last[..., None])
    flat = x.to(start.dtype)

    def read(index: Tensor) -> Tensor:
        return flat.gather(1, index.long().flatten(1)).unflatten(1, index.shape[1:])

    low = read(left)
    return low + (at - left) * (read(right) - low)


def smoothed(curves: Tensor, width: int) -> Tensor:
    """Moving average over `width` samples, an odd number; the ends repeat. [..., T] -> [..., T]."""
    if width == 1:
        return curves
    flat = F.pad(curves.flatten(0, -2)[:, None], (width // 2, width // 2), mode="replicate")
    return F.avg_pool1d(flat, width, 1).view_as(curves)


def laid(curves: Tensor, start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Curves in their places.

    Args:
        curves: [B, N, points]
        start, length: [B, N] shares of a series, as in `excerpts`
        size: samples of that series

    Returns:
        [B, N, size] each curve over the whole series, 0 where it is not; and [B, N, size] bool, where it is. A curve
        that falls between two samples is at the nearest one.
    """
    time = torch.linspace(0, 1, size, device=curves.device, dtype=curves.dtype)
    start, end = start[..., None], (start + length).clamp(max=1)[..., None]
    slack = 0.5 / max(size - 1, 1)
    where = (time >= start - slack) & (time <= end + slack)
    share = ((time - start) / (end - start).clamp(min=1e-6)).clamp(0, 1)
    at = share * (curves.shape[-1] - 1)
    left = at.floor()
    right = (left + 1).clamp(max=curves.shape[-1] - 1)
    low, high = curves.gather(-1, left.long()), curves.gather(-1, right.long())
    return (low + (at - left) * (high - low)) * where, where


def crowding(start: Tensor, length: Tensor, shortest: float, apart: float = 0.2) -> Tensor:
    """How close stretches come to each other in place and scale, [B]: mean over all pairs of what they lack to `apart`.

    A stretch is a point in the plane with its start as angle and its length, as a share of the logarithm of the
    shortest, as radius: short ones must differ in their place, long ones need not.

    Args:
        start, length: [B, N] shares of the series
        shortest: least length
        apart: distance from which a pair costs nothing
    """
    radius = length.float().log() / math.log(shortest)
    angle = math.pi * start.float()
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    # exact differences: a matrix product would round those that matter, and their gradient is 0 at 0
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    lacking = (apart - distance).clamp(min=0)
    others = ~torch.eye(start.shape[1], dtype=torch.bool, device=start.device)
    return (lacking * others).mean((1, 2))
