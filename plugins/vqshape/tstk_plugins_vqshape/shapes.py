"""Shapes: curves of mean 0 and (unbiased) deviation 1 that are decoded from codes, and the segments they describe.

`ShapeDecoder` decodes codes to curves; `extract_segments` cuts the segments they cover out of a series; `place_curves`
puts curves at their positions; `diversity_loss` penalizes segments that coincide.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.errors import OptionError
from tstk.nn.linear import Linear


class _ResidualBlock(nn.Module):
    """Two convolutions over time with a skip connection, norm and GELU before each."""

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
        """Map [M, inputs, T] to [M, outputs, T]."""
        return self.skip(x) + self.body(x)


class ShapeDecoder(nn.Module):
    """Decode codes to curves by convolutions that upsample from `points / 16` to `points` samples.

    Args:
        code_dim: width of a code
        points: samples of a curve, a multiple of 16, 32 or more
        width: channels of the convolutions; a multiple of 32, or one of 2, 4, 8, 16
        smooth: width of the last convolution, an odd number

    Raises:
        OptionError: an argument is out of range
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
        self.in_proj = Linear(code_dim, width * (points // 16))
        self.body = nn.Sequential(
            _ResidualBlock(width, width),
            nn.GELU(),
            nn.Upsample(scale_factor=4),
            nn.Conv1d(width, width, 3, padding=1),
            _ResidualBlock(width, width // 2),
            nn.GELU(),
            nn.Upsample(scale_factor=4),
            nn.Conv1d(width // 2, width // 2, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width // 2, 1, smooth, padding=smooth // 2),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Decode [..., code_dim] to [..., points], normalized to mean 0 and unbiased standard deviation 1."""
        x = self.in_proj(codes.flatten(0, -2)).unflatten(-1, (self.width, -1))
        curve = self.body(x)[:, 0]
        curve = curve.to(torch.promote_types(curve.dtype, torch.float32))
        variance, mean = torch.var_mean(curve, -1, keepdim=True)
        # avoids division by zero for flat curves; far below the variance of any trained curve
        curve = (curve - mean) / (variance + 1e-10).sqrt()
        return curve.unflatten(0, codes.shape[:-1])

    @torch.no_grad()
    def compute_jacobian(self, codes: Tensor) -> Tensor:
        """Compute the derivatives of the curves, [K, code_dim, points], at codes [K, code_dim]; no gradient."""
        count, width = codes.shape
        directions = torch.eye(width, device=codes.device, dtype=codes.dtype).repeat(count, 1)
        with torch.autocast(codes.device.type, enabled=False):
            jacobian: Tensor = torch.func.jvp(self.forward, (codes.repeat_interleave(width, 0),), (directions,))[1]
        return jacobian.unflatten(0, (count, width))


@torch.no_grad()
def extract_segments(x: Tensor, start: Tensor, length: Tensor, points: int, lengths: Tensor) -> Tensor:
    """Sample segments of series at equally spaced points by linear interpolation; no gradient.

    Args:
        x: [B, T] series
        start: [B, N] start of each segment, as a share of the series
        length: [B, N] length of each segment, as a share of the series; truncated at the end of the series
        points: samples per segment
        lengths: [B] long; number of samples of each series, the others are padding

    Returns:
        [B, N, points]
    """
    last = (lengths - 1).clamp(min=0).to(start.dtype)[:, None]
    begin, end = start * last, (start + length).clamp(max=1) * last
    steps = torch.linspace(0, 1, points, device=x.device, dtype=start.dtype)
    position = begin[..., None] + (end - begin)[..., None] * steps
    left = position.floor().clamp(min=0)
    right = (left + 1).minimum(last[..., None])
    series = x.to(start.dtype)

    def gather(index: Tensor) -> Tensor:
        return series.gather(1, index.long().flatten(1)).unflatten(1, index.shape[1:])

    low = gather(left)
    return low + (position - left) * (gather(right) - low)


def smooth_curves(curves: Tensor, width: int) -> Tensor:
    """Compute the moving average of [..., T] over `width` samples, an odd number; the ends are replicated."""
    if width == 1:
        return curves
    flat = F.pad(curves.flatten(0, -2)[:, None], (width // 2, width // 2), mode="replicate")
    return F.avg_pool1d(flat, width, 1).view_as(curves)


def place_curves(curves: Tensor, start: Tensor, length: Tensor, series_length: int) -> tuple[Tensor, Tensor]:
    """Resample curves to the segments of a series that they cover.

    Args:
        curves: [B, N, points]
        start: [B, N] start of each segment, as a share of the series
        length: [B, N] length of each segment, as a share of the series
        series_length: number of samples T of the series

    Returns:
        [B, N, T] each curve over the whole series, 0 outside its segment; and [B, N, T] bool, the samples of its
        segment. A segment between two samples is moved to the nearest one.
    """
    time = torch.linspace(0, 1, series_length, device=curves.device, dtype=curves.dtype)
    start, end = start[..., None], (start + length).clamp(max=1)[..., None]
    slack = 0.5 / max(series_length - 1, 1)
    covered = (time >= start - slack) & (time <= end + slack)
    share = ((time - start) / (end - start).clamp(min=1e-6)).clamp(0, 1)
    position = share * (curves.shape[-1] - 1)
    left = position.floor()
    right = (left + 1).clamp(max=curves.shape[-1] - 1)
    low, high = curves.gather(-1, left.long()), curves.gather(-1, right.long())
    return (low + (position - left) * (high - low)) * covered, covered


def diversity_loss(start: Tensor, length: Tensor, shortest: float, margin: float = 0.2) -> Tensor:
    """Compute the hinge loss max(0, margin - distance) of segments, [B], averaged over all pairs (the paper's L_div).

    A segment is a point in the plane, with its start as angle and log(length) / log(shortest) as radius: short segments
    must differ in position, long ones need not.

    Args:
        start: [B, N] starts, as shares of the series
        length: [B, N] lengths, as shares of the series
        shortest: minimal length
        margin: distance from which the loss of a pair is 0
    """
    radius = length.float().log() / math.log(shortest)
    angle = math.pi * start.float()
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    # not by matrix products, which round small distances; the gradient is 0 at distance 0
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    hinge = (margin - distance).clamp(min=0)
    off_diagonal = ~torch.eye(start.shape[1], dtype=torch.bool, device=start.device)
    return (hinge * off_diagonal).mean((1, 2))
