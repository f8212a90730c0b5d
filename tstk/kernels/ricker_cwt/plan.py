"""The transform as small matrix products, built in float64 once and kept.

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
FINE, SMOOTH = 2.0, 1.25
RADIUS = 6.0  # widths from its centre at which a kernel is cut: 5e-7 of its peak
TINY = 1e-9  # smaller entries, against the peak, are zero: as denormal numbers they would slow a product fivefold
SMOOTHED = 16  # smoothed samples that one frame yields
BLOCK = 32  # samples that one frame answers unless patches say so
REARRANGE = 50  # what one more pass over the output costs, in multiplications per value


class Level(NamedTuple):
    """Neighbouring rows of patches whose kernels are sampled at every `step`-th sample.

    Args:
        step: samples between two entries of a kernel
        start: where in the padded series its first frame begins
        smooth: [K, SMOOTHED] makes a frame of K samples, every SMOOTHED * step, into smoothed ones; None if step is 1
        frames: how many of these
        first: row of patches
        weight: [n, M, patch] makes a frame of M smoothed samples, every block / step, into a patch of each of n rows
    """

    step: int
    start: int
    smooth: Tensor | None
    frames: int
    first: int
    weight: Tensor


class Plan(NamedTuple):
    """Levels, and what they have in common.

    Args:
        patch: scales and samples of a patch
        blocks: patches of a series along time
        pad: samples before and after it
        index: which sample stands at each place of the padded series, if it is not zeros beyond the ends
        levels: from the first scales to the last
    """

    patch: tuple[int, int]
    blocks: int
    pad: tuple[int, int]
    index: Tensor | None  # type: ignore[assignment]
    levels: tuple[Level, ...]


class Gains(NamedTuple):
    """What a transform makes of ones.

    Args:
        first: scale, or row of patches, for which that is not negligible
        last: the one after the last such
        sums: [S, 1] or [S / ph, 1, ph * pw], as they are added to the result; None if all are negligible
    """

    first: int
    last: int
    sums: Tensor | None


def kept(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor that may outlive the call: neither fake, though made while exporting, nor an inference tensor."""
    with _disable_current_modes(), torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)


def amplitude(scale: float, kernel: str) -> float:
    """Height of a wavelet of unit energy; the published code adds 1e-6 below."""
    return 2 / (sqrt(3 * scale) * pi**0.25 + (1e-6 if kernel == "published" else 0))


def support(scales: tuple[float, ...], length: int, kernel: str) -> tuple[float, float]:
    """How far a kernel reaches at most, and by how much its centre lies after a sample.

    Published kernels have ten times as many taps as the largest scale, a float32, or as many as the series has samples;
    one more if that is even, which a fraction never is.
    """
    if kernel == "odd":
        return inf, 0.0
    taps = min(10 * float(np.float32(max(scales))), length)
    taps = int(taps + 1 if taps % 2 == 0 else taps)
    return (taps - 1) / 2, 0.0 if taps % 2 else 0.5


@lru_cache(maxsize=16)
def gains(
    scales: tuple[float, ...],
    length: int,
    kernel: str,
    patch: tuple[int, int] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Gains:
    """What each scale makes of a series of ones without an end: the sum of its wavelet, next to 0 for most."""
    sums = []
    for a in scales:
        reach, shift = support(scales, length, kernel)
        reach = min(reach, ceil(10 * a))
        at = np.arange(-ceil(reach) - 1, ceil(reach) + 2) + shift
        u = (at[abs(at) <= reach] / a) ** 2
        sums.append(amplitude(a, kernel) * ((1 - u) * np.exp(-u / 2)).sum())
    gain = np.array(sums)[:, None]
    if patch is not None:
        gain = gain.reshape(-1, 1, patch[0]).repeat(patch[1], 2)
    counts = np.flatnonzero(abs(gain.reshape(len(gain), -1)).max(1) > 1e-12)
    if not len(counts):
        return Gains(0, 0, None)
    return Gains(int(counts[0]), int(counts[-1]) + 1, kept(gain, device, dtype))


def padded(length: int, left: int, right: int, padding: str) -> np.ndarray | None:
    """[left + length + right] which sample stands at each place, or None for zeros beyond the ends."""
    if padding == "zero":
        return None
    return np.pad(np.arange(length), (left, right), mode="edge" if padding == "replicate" else "reflect")


def steps(scales: tuple[float, ...], patch: tuple[int, int], reach: float) -> list[tuple[int, tuple[float, ...]]]:
    """For each level its step, the largest that serves its smallest scale, and its scales."""
    group, block = patch
    divisors = [d for d in range(2, block + 1) if block % d == 0]

    def step(row: tuple[float, ...]) -> int:
        if reach < RADIUS * max(row):  # a kernel that ends abruptly cannot be had from a smooth series
            return 1
        return max((d for d in divisors if FINE * d <= min(row)), default=1)

    rows = [scales[i : i + group] for i in range(0, len(scales), group)]
    return [(d, tuple(a for row in of for a in row)) for d, of in groupby(rows, step)]


def layout(
    scales: tuple[float, ...], length: int, kernel: str, patch: tuple[int, int] | None
) -> tuple[tuple[int, int], float]:
    """The patch to plan for, and about how many multiplications a value of the output takes.

    It is single scales of BLOCK samples if no patch was asked for, or if rearranging them is cheaper: a patch of a
    prime number of samples has no steps.
    """
    reach, _ = support(scales, length, kernel)

    def cost(patch: tuple[int, int]) -> float:
        smoothing = (SMOOTHED + 2 * RADIUS * SMOOTH) / len(scales)
        return sum(
            len(of) / len(scales) * (patch[1] + 2 * min(RADIUS * max(of), reach)) / d + smoothing
            for d, of in steps(scales, patch, reach)
        )

    series = cost((1, BLOCK)) + (REARRANGE if patch else 0)
    if patch and (direct := cost(patch)) <= series:
        return patch, direct
    return (1, BLOCK), series


@lru_cache(maxsize=16)
def plan(
    scales: tuple[float, ...],
    length: int,
    padding: str,
    kernel: str,
    patch: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Plan:
    """The plan for series of `length` samples."""
    group, block = patch
    blocks = -(-length // block)
    reach, shift = support(scales, length, kernel)
    levels, end, first = [], length, 0
    for step, of in steps(scales, patch, reach):
        wide = SMOOTH * step if step > 1 else 0.0
        narrow = [sqrt(a**2 - wide**2) for a in of]
        half = ceil((min(RADIUS * max(narrow), reach) + shift) / step)  # smoothed samples that a frame begins early
        at = step * (np.arange(block // step + 2 * half + 1) - half)[:, None] - np.arange(block) + shift
        weight = np.stack([_kernel(at, a, n, reach, kernel) * step for a, n in zip(of, narrow, strict=True)], 1)
        weight = weight.reshape(len(at), -1, group * block).transpose(1, 0, 2)
        count = (blocks - 1) * (block // step) + len(at)
        start, hop, smooth = -half * step, 1, np.ones((1, 1))
        if step > 1:
            margin, hop = ceil(RADIUS * wide), SMOOTHED * step
            taps = np.arange(hop - step + 2 * margin + 1)[:, None] - margin - step * np.arange(SMOOTHED)
            smooth = np.where(abs(taps) <= margin, np.exp(-((taps / wide) ** 2) / 2) / (wide * sqrt(2 * pi)), 0)
            start, count = start - margin, -(-count // SMOOTHED)
        end = max(end, start + (count - 1) * hop + len(smooth))
        bell = kept(smooth, device, dtype) if step > 1 else None
        levels.append(Level(step, start, bell, count, first, kept(weight, device, dtype)))
        first += len(weight)
    left = -min(level.start for level in levels)
    index = padded(length, left, end - length, padding)
    return Plan(
        patch,
        blocks,
        (left, end - length),
        None if index is None else kept(index, device, torch.long),
        tuple(level._replace(start=level.start + left) for level in levels),
    )


def _kernel(at: np.ndarray, scale: float, narrow: float, reach: float, kernel: str) -> np.ndarray:
    """A wavelet of unit energy at `scale` as it is after smoothing, when it is but `narrow`."""
    u = (at / narrow) ** 2
    wavelet = amplitude(scale, kernel) * (scale / narrow) ** 3 * (1 - u) * np.exp(-u / 2)
    wavelet[abs(at) > reach] = 0
    wavelet[abs(wavelet) < TINY * abs(wavelet).max()] = 0
    return wavelet
