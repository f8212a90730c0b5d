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

# Steps go up to scale / 2.1, after smoothing by b = 1.5 steps. What then folds over the new Nyquist frequency is at most
# about exp(-2 pi^2 (b a' / (a step))^2), 3e-8 of the wavelet's peak gain.
FINE, SMOOTH = 2.1, 1.5
RADIUS = 6.5  # widths from its centre at which a kernel is cut: 3e-8 of its peak
TINY = 1e-9  # smaller entries, against the peak, are zero: as denormal numbers they would slow a product fivefold
SMOOTHED = 16  # smoothed samples that one frame yields
BLOCK = 48  # samples that one frame answers unless patches say so: many divisors, hence many steps
REARRANGE = 50  # what one more pass over the output costs, in multiplications per value


class Run(NamedTuple):
    """Neighbouring scales of a level within a patch: frames[..., rows] @ weight[rows, columns] is out[group, :, place]."""

    group: int
    place: slice
    rows: slice
    columns: slice


class Level(NamedTuple):
    """Scales whose kernels are sampled at every `step`-th sample.

    Args:
        step: samples between two entries of a kernel
        start: where in the padded row its first frame begins
        smooth: [K, SMOOTHED] makes a frame of K samples, every SMOOTHED * step, into smoothed ones; None if step is 1
        frames: how many of these
        weight: [M, n * block] makes a frame of M smoothed samples, every block / step, into outputs of its n scales
        scales: [n] int32, which they are
        runs: the same product in pieces that have a place in the output
    """

    step: int
    start: int
    smooth: Tensor | None
    frames: int
    weight: Tensor
    scales: Tensor
    runs: tuple[Run, ...]


class Plan(NamedTuple):
    """Levels, and what they have in common.

    Args:
        patch: scales and samples of one row of the output [rows, scales / patch[0], blocks, patch[0] * patch[1]]
        blocks: frames of a row
        pad: zeros before and after the row
        index: which sample stands at each place of the padded row, if it is not zeros beyond the ends
        levels: one for each step
        order: [scales] where a scale is when levels stand one after another; None if where it belongs
    """

    patch: tuple[int, int]
    blocks: int
    pad: tuple[int, int]
    index: Tensor | None
    levels: tuple[Level, ...]
    order: Tensor | None


def kept(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor that may outlive the call: neither fake, though made while exporting, nor an inference tensor."""
    with _disable_current_modes(), torch.inference_mode(False):
        return torch.from_numpy(array).to(device, dtype)


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


def padded(length: int, left: int, right: int, padding: str) -> np.ndarray | None:
    """[left + length + right] which sample stands at each place, or None for zeros beyond the ends."""
    if padding == "zero":
        return None
    return np.pad(np.arange(length), (left, right), mode="edge" if padding == "replicate" else "reflect")


def step_of(scale: float, block: int, reach: float) -> int:
    """The largest step that serves a scale; a kernel that ends abruptly cannot be had from a smooth series."""
    if reach < RADIUS * scale:
        return 1
    return max((d for d in range(2, block + 1) if block % d == 0 and FINE * d <= scale), default=1)


def layout(
    scales: tuple[float, ...], length: int, kernel: str, patch: tuple[int, int] | None
) -> tuple[tuple[int, int], float]:
    """The patch to plan for, and multiplications per value of the output.

    It is single scales of BLOCK samples if no patch was asked for, or if rearranging them is cheaper: a patch of a
    prime number of samples has no steps.
    """
    reach, _ = support(scales, length, kernel)

    def cost(block: int) -> float:
        steps = [step_of(a, block, reach) for a in scales]
        rows = [block / d + 2 * min(RADIUS * a, reach) / d for a, d in zip(scales, steps, strict=True)]
        return sum(rows) / len(rows)

    series = cost(BLOCK) + (REARRANGE if patch else 0)
    if patch and (direct := cost(patch[1])) <= series:
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
    """The plan for rows of `length` samples."""
    group, block = patch
    blocks = -(-length // block)
    reach, shift = support(scales, length, kernel)
    steps = [step_of(a, block, reach) for a in scales]
    levels, ends, order = [], [length], []
    for step in sorted(set(steps)):
        mine = [i for i, d in enumerate(steps) if d == step]
        smooth, weight, half = _matrices(step, [scales[i] for i in mine], kernel, block, reach, shift)
        samples = (blocks - 1) * (block // step) + len(weight)
        start, frames = -step * half, samples
        if smooth is None:
            ends.append(start + samples)
        else:
            frames = -(-samples // SMOOTHED)
            start -= (len(smooth) - (SMOOTHED - 1) * step) // 2
            ends.append(start + (frames - 1) * SMOOTHED * step + len(smooth))
        levels.append(
            Level(
                step,
                start,
                None if smooth is None else kept(smooth, device, dtype),
                frames,
                kept(weight.reshape(len(weight), -1), device, dtype),
                kept(np.array(mine), device, torch.int32),
                tuple(_runs(mine, weight, group)),
            )
        )
        order += mine
    left = -min(level.start for level in levels)
    pad = left, max(ends) - length
    index = padded(length, *pad, padding)
    return Plan(
        patch,
        blocks,
        pad,
        None if index is None else kept(index, device, torch.long),
        tuple(level._replace(start=level.start + left) for level in levels),
        None if order == sorted(order) else kept(np.argsort(order), device, torch.long),
    )


def _matrices(
    step: int, scales: list[float], kernel: str, block: int, reach: float, shift: float
) -> tuple[np.ndarray | None, np.ndarray, int]:
    """What smooths, what answers [M, n, block], and how many smoothed samples a frame begins before its block."""
    wide = SMOOTH * step if step > 1 else 0.0
    narrow = [sqrt(a**2 - wide**2) for a in scales]
    half = ceil((min(RADIUS * max(narrow), reach) + shift) / step)
    at = step * (np.arange(block // step + 2 * half + 1) - half)[:, None] - np.arange(block) + shift
    weight = np.empty((len(at), len(scales), block))
    for n, (a, short) in enumerate(zip(scales, narrow, strict=True)):
        u = (at / short) ** 2
        w = step * amplitude(a, kernel) * (a / short) ** 3 * (1 - u) * np.exp(-u / 2)
        w[abs(at) > reach] = 0
        w[abs(w) < TINY * abs(w).max()] = 0
        weight[:, n] = w
    if step == 1:
        return None, weight, half
    margin = ceil(RADIUS * wide)
    at = np.arange((SMOOTHED - 1) * step + 2 * margin + 1)[:, None] - margin - step * np.arange(SMOOTHED)
    bell = np.exp(-((at / wide) ** 2) / 2) / (wide * sqrt(2 * pi))
    bell[abs(at) > margin] = 0
    return bell, weight, half


def _runs(mine: list[int], weight: np.ndarray, group: int) -> list[Run]:
    """The pieces of a level; rows that are zero for all of a piece stay out of it."""
    block = weight.shape[-1]
    runs = []
    for (at, _), pairs in groupby(enumerate(mine), key=lambda pair: (pair[1] // group, pair[1] - pair[0])):
        places, scales = zip(*pairs, strict=True)
        lo, hi = places[0], places[-1] + 1
        rows = [*np.flatnonzero(weight[:, lo:hi].any((1, 2))), 0]
        place = scales[0] % group
        runs.append(
            Run(
                at,
                slice(place * block, (place + hi - lo) * block),
                slice(int(min(rows)), int(max(rows)) + 1),
                slice(lo * block, hi * block),
            )
        )
    return runs
