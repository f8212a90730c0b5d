"""The transform as small matrix products, built once in float64 and cached.

A Ricker wavelet is minus the second derivative of a Gaussian, and Gaussians form a semigroup: smoothing by width b and
then by a wavelet of width a' equals a wavelet of width a, where a^2 = b^2 + a'^2. So a large scale needs few numbers:
smooth the series, keep every `step`-th sample, apply a short kernel. Scales that share a step form a level; both of its
stages are one and the same operation, frames of a row times a matrix.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from math import ceil, inf, pi, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

# Steps go up to half a scale, after smoothing by b = 1.25 steps. What then folds over the new Nyquist frequency is at
# most about exp(-2 pi^2 (b a' / (a step))^2) of the wavelet's peak gain, 3e-7 of an output for white noise. Less
# smoothing would fold more; more of it, undone by a / a' afterwards, would bring the smooth series' rounding up.
MIN_SCALE_PER_STEP, SMOOTHING_PER_STEP = 2.0, 1.25
CUTOFF_RADIUS = 6.0  # widths from its centre at which a kernel is cut: 5e-7 of its peak
RELATIVE_CUTOFF = (
    1e-9  # smaller entries, against the peak, are zero: as denormal numbers they would slow a product fivefold
)
SMOOTHED_PER_FRAME = 16  # smoothed samples computed from one frame
DEFAULT_BLOCK = 32  # output samples computed from one frame, without patches
REARRANGE_COST = 50  # cost of one more pass over the output, in multiplications per value


class Level(NamedTuple):
    """Neighbouring rows of patches whose kernels are sampled at every `step`-th sample.

    Args:
        step: samples between two entries of a kernel
        start: index in the padded series of the first frame
        smoothing: [K, SMOOTHED_PER_FRAME], maps frames of K samples, with a hop of SMOOTHED_PER_FRAME * step, to
            smoothed samples; None if step is 1
        num_frames: number of these frames
        first_row: first row of patches
        weight: [n, M, patch], maps frames of M smoothed samples, with a hop of block / step, to patches of n rows
    """

    step: int
    start: int
    smoothing: Tensor | None
    num_frames: int
    first_row: int
    weight: Tensor


class Plan(NamedTuple):
    """All levels of a transform.

    Args:
        patch: scales and samples of a patch
        num_blocks: patches of a series along time
        pad: samples before and after it
        index: sample at each position of the padded series; None if padded with zeros
        levels: from the first scales to the last
    """

    patch: tuple[int, int]
    num_blocks: int
    pad: tuple[int, int]
    index: Tensor | None  # type: ignore[assignment]
    levels: tuple[Level, ...]


class Gains(NamedTuple):
    """The transform of a constant series of ones.

    Args:
        first: first scale, or row of patches, with a non-negligible value
        last: the scale or row after the last such
        sums: [S, 1] or [S / ph, 1, ph * pw], to be added to the result; None if all are negligible
    """

    first: int
    last: int
    sums: Tensor | None


def make_cacheable_tensor(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor that can be cached: neither fake, even while exporting, nor an inference tensor."""
    with _disable_current_modes(), torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)


def amplitude(scale: float, kernel: str) -> float:
    """Return the peak of a wavelet of unit energy; the published code adds 1e-6 to the denominator."""
    return 2 / (sqrt(3 * scale) * pi**0.25 + (1e-6 if kernel == "published" else 0))


def kernel_support(scales: tuple[float, ...], length: int, kernel: str) -> tuple[float, float]:
    """Return the maximum radius of a kernel, and the offset of its centre after a sample.

    Published kernels have ten times as many taps as the largest scale, a float32, or as many as the series has samples;
    one more if that is even, which a fraction never is.
    """
    if kernel == "odd":
        return inf, 0.0
    taps = min(10 * float(np.float32(max(scales))), length)
    taps = int(taps + 1 if taps % 2 == 0 else taps)
    return (taps - 1) / 2, 0.0 if taps % 2 else 0.5


@lru_cache(maxsize=16)
def compute_gains(
    scales: tuple[float, ...],
    length: int,
    kernel: str,
    patch: tuple[int, int] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Gains:
    """Compute the response of each scale to an infinite series of ones: the sum of its wavelet, mostly near 0."""
    sums = []
    for a in scales:
        reach, shift = kernel_support(scales, length, kernel)
        reach = min(reach, ceil(10 * a))
        offsets = np.arange(-ceil(reach) - 1, ceil(reach) + 2) + shift
        u = (offsets[abs(offsets) <= reach] / a) ** 2
        sums.append(amplitude(a, kernel) * ((1 - u) * np.exp(-u / 2)).sum())
    gain = np.array(sums)[:, None]
    if patch is not None:
        gain = gain.reshape(-1, 1, patch[0]).repeat(patch[1], 2)
    nonzero = np.flatnonzero(abs(gain.reshape(len(gain), -1)).max(1) > 1e-12)
    if not len(nonzero):
        return Gains(0, 0, None)
    return Gains(int(nonzero[0]), int(nonzero[-1]) + 1, make_cacheable_tensor(gain, device, dtype))


def make_padding_index(length: int, left: int, right: int, padding: str) -> np.ndarray | None:
    """Return the sample index at each position of the padded series, [left + length + right]; None for zeros."""
    if padding == "zero":
        return None
    return np.pad(np.arange(length), (left, right), mode="edge" if padding == "replicate" else "reflect")


def group_into_levels(
    scales: tuple[float, ...], patch: tuple[int, int], reach: float
) -> list[tuple[int, tuple[float, ...]]]:
    """Return for each level its step, the largest that its smallest scale permits, and its scales."""
    group, block = patch
    divisors = [d for d in range(2, block + 1) if block % d == 0]

    def step(row: tuple[float, ...]) -> int:
        if reach < CUTOFF_RADIUS * max(row):  # a kernel that ends abruptly cannot be had from a smooth series
            return 1
        return max((d for d in divisors if MIN_SCALE_PER_STEP * d <= min(row)), default=1)

    rows = [scales[i : i + group] for i in range(0, len(scales), group)]
    return [(d, tuple(a for row in level_rows for a in row)) for d, level_rows in groupby(rows, step)]


def choose_layout(
    scales: tuple[float, ...], length: int, kernel: str, patch: tuple[int, int] | None
) -> tuple[tuple[int, int], float]:
    """Return the patch to plan for, and the approximate number of multiplications per output value.

    The patch is one scale by DEFAULT_BLOCK samples if none was requested, or if rearranging the output is cheaper: a
    patch of a prime number of samples permits no steps.
    """
    reach, _ = kernel_support(scales, length, kernel)

    def cost(patch: tuple[int, int]) -> float:
        smoothing = (SMOOTHED_PER_FRAME + 2 * CUTOFF_RADIUS * SMOOTHING_PER_STEP) / len(scales)
        return sum(
            len(level) / len(scales) * (patch[1] + 2 * min(CUTOFF_RADIUS * max(level), reach)) / d + smoothing
            for d, level in group_into_levels(scales, patch, reach)
        )

    series = cost((1, DEFAULT_BLOCK)) + (REARRANGE_COST if patch else 0)
    if patch and (direct := cost(patch)) <= series:
        return patch, direct
    return (1, DEFAULT_BLOCK), series


@lru_cache(maxsize=16)
def build_plan(
    scales: tuple[float, ...],
    length: int,
    padding: str,
    kernel: str,
    patch: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Plan:
    """Build the plan for series of `length` samples."""
    group, block = patch
    blocks = -(-length // block)
    reach, shift = kernel_support(scales, length, kernel)
    levels, end, first = [], length, 0
    for step, level_scales in group_into_levels(scales, patch, reach):
        smoothing_width = SMOOTHING_PER_STEP * step if step > 1 else 0.0
        remaining_scales = [sqrt(a**2 - smoothing_width**2) for a in level_scales]
        half = ceil(
            (min(CUTOFF_RADIUS * max(remaining_scales), reach) + shift) / step
        )  # smoothed samples that a frame begins early
        offsets = step * (np.arange(block // step + 2 * half + 1) - half)[:, None] - np.arange(block) + shift
        weight = np.stack(
            [
                _sample_wavelet(offsets, a, n, reach, kernel) * step
                for a, n in zip(level_scales, remaining_scales, strict=True)
            ],
            1,
        )
        weight = weight.reshape(len(offsets), -1, group * block).transpose(1, 0, 2)
        count = (blocks - 1) * (block // step) + len(offsets)
        start, hop, smooth = -half * step, 1, np.ones((1, 1))
        if step > 1:
            margin, hop = ceil(CUTOFF_RADIUS * smoothing_width), SMOOTHED_PER_FRAME * step
            taps = np.arange(hop - step + 2 * margin + 1)[:, None] - margin - step * np.arange(SMOOTHED_PER_FRAME)
            smooth = np.where(
                abs(taps) <= margin, np.exp(-((taps / smoothing_width) ** 2) / 2) / (smoothing_width * sqrt(2 * pi)), 0
            )
            start, count = start - margin, -(-count // SMOOTHED_PER_FRAME)
        end = max(end, start + (count - 1) * hop + len(smooth))
        bell = make_cacheable_tensor(smooth, device, dtype) if step > 1 else None
        levels.append(Level(step, start, bell, count, first, make_cacheable_tensor(weight, device, dtype)))
        first += len(weight)
    left = -min(level.start for level in levels)
    index = make_padding_index(length, left, end - length, padding)
    return Plan(
        patch,
        blocks,
        (left, end - length),
        None if index is None else make_cacheable_tensor(index, device, torch.long),
        tuple(level._replace(start=level.start + left) for level in levels),
    )


def _sample_wavelet(offsets: np.ndarray, scale: float, remaining_scale: float, reach: float, kernel: str) -> np.ndarray:
    """Sample the wavelet of `remaining_scale` that, applied after smoothing, equals unit energy at `scale`."""
    u = (offsets / remaining_scale) ** 2
    wavelet = amplitude(scale, kernel) * (scale / remaining_scale) ** 3 * (1 - u) * np.exp(-u / 2)
    wavelet[abs(offsets) > reach] = 0
    wavelet[abs(wavelet) < RELATIVE_CUTOFF * abs(wavelet).max()] = 0
    return wavelet
