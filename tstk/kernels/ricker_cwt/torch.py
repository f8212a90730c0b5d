"""PyTorch backend: a few short matrix products per level of a plan, or one real FFT with cached spectra.

Products are faster where kernels can be computed from a smoothed series; the FFT is faster where they end abruptly
(published kernels of large scales) or are too long for the steps of a plan. Traced graphs use products only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import count
from math import ceil, prod
from operator import index as constant
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tstk.kernels.ricker_cwt.plan import (
    REARRANGE_COST,
    Gains,
    Plan,
    amplitude,
    build_plan,
    choose_layout,
    compute_gains,
    kernel_support,
    make_cacheable_tensor,
    make_padding_index,
)

Function = TypeVar("Function", bound=Callable[..., Any])

FFT_COST = 90  # cost of an FFT in multiplications per value
FFT_CUTOFF_RADIUS = 7.5  # widths beyond which a wavelet is below 1e-10 of its peak


def _constant_while_tracing(function: Function) -> Function:
    """Do what torch.compiler.assume_constant_result does, without its import of the compiler and of Triton."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Spectra(NamedTuple):
    """Cached tensors of the FFT.

    Args:
        index: sample at each position of the padded row; None if padded with zeros
        size: number of samples of the transform
        start: index of the first output sample in it
        response: [scales, size / 2 + 1] complex spectra of the kernels
    """

    index: Tensor | None  # type: ignore[assignment]
    size: int
    start: int
    response: Tensor


def ricker_cwt(
    x: Tensor,
    scales: tuple[float, ...],
    *,
    padding: str = "zero",
    kernel: str = "odd",
    patch: tuple[int, int] | None = None,
    algorithm: Literal["products", "fft"] | None = None,
) -> Tensor:
    """See `tstk.kernels.ricker_cwt`; `algorithm` overrides the choice by cost."""
    length = constant(x.shape[-1])  # a plan is for one length, also while tracing
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tracing = torch.compiler.is_compiling()
    autocast = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
        rows = x.to(dtype).reshape(prod(x.shape[:-1]), length)
        rows, mean = subtract_mean(rows, padding)
        algorithm_data = _choose_algorithm(
            scales, length, padding, kernel, patch, x.device, dtype, "products" if tracing else algorithm
        )
        if isinstance(algorithm_data, Spectra):
            out, in_patches = _apply_fft(rows, length, algorithm_data), False
        else:
            out, in_patches = _apply_products(rows, algorithm_data), patch is not None and algorithm_data.patch == patch
            if not in_patches:
                out = out.flatten(2)[..., :length]
        if patch is not None and not in_patches:
            out = patchify(out, patch)
        out = add_mean_response(out, mean, scales, length, kernel, patch)
    return out.reshape(*x.shape[:-1], *out.shape[1:])


def subtract_mean(rows: Tensor, padding: str) -> tuple[Tensor, Tensor | None]:
    """Subtract the mean of each row [R, T], unless padded with zeros; `add_mean_response` adds its transform.

    A wavelet removes a constant except for rounding errors, which would be large for a large constant.
    """
    if padding == "zero":
        return rows, None
    mean = rows.detach().mean(1, keepdim=True)
    return rows - mean, mean


def add_mean_response(
    out: Tensor,
    mean: Tensor | None,
    scales: tuple[float, ...],
    length: int,
    kernel: str,
    patch: tuple[int, int] | None,
) -> Tensor:
    """Add the transform of the mean that `subtract_mean` removed to [R, S, T], or to patches."""
    if mean is None:
        return out
    first, last, gain = _constant_gains(scales, length, kernel, patch, out.device, out.dtype)
    if gain is None:
        return out
    mean = mean.reshape(-1, *[1] * (out.ndim - 1))
    if torch.compiler.is_compiling():
        return out + mean * gain
    out.detach()[:, first:last] += mean * gain[first:last]  # a constant: no gradient passes through it
    return out


@_constant_while_tracing
def _constant_gains(
    scales: tuple[float, ...],
    length: int,
    kernel: str,
    patch: tuple[int, int] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Gains:
    """Call `compute_gains`, as a constant while tracing."""
    return compute_gains(scales, length, kernel, patch, device, dtype)


def patchify(image: Tensor, patch: tuple[int, int]) -> Tensor:
    """Rearrange [R, scales, T] into contiguous patches [R, scales / patch[0], T / patch[1], patch[0] * patch[1]]."""
    high, wide = patch
    return image.unflatten(2, (-1, wide)).unflatten(1, (-1, high)).transpose(2, 3).contiguous().flatten(3)


@_constant_while_tracing
def _choose_algorithm(
    scales: tuple[float, ...],
    length: int,
    padding: str,
    kernel: str,
    patch: tuple[int, int] | None,
    device: torch.device,
    dtype: torch.dtype,
    algorithm: str | None,
) -> Plan | Spectra:
    """Return the plan or spectra of `algorithm`, or of the cheaper one if None."""
    layout, cost = choose_layout(scales, length, kernel, patch)
    if (algorithm or ("fft" if FFT_COST + REARRANGE_COST * (patch is not None) < cost else "products")) == "fft":
        return _build_spectra(scales, length, padding, kernel, device, dtype)
    return build_plan(scales, length, padding, kernel, layout, device, dtype)


@lru_cache(maxsize=16)
def _build_spectra(
    scales: tuple[float, ...], length: int, padding: str, kernel: str, device: torch.device, dtype: torch.dtype
) -> Spectra:
    reach, shift = kernel_support(scales, length, kernel)
    reach = ceil(min(FFT_CUTOFF_RADIUS * max(scales), reach) + shift)
    start = 0 if padding == "zero" else reach  # zeros at the end serve both ends, the transform being a circle
    size = _next_fast_len(start + length + reach)
    offset = np.arange(-reach, reach + 1)
    times = offset + shift
    kernels = np.zeros((len(scales), size))
    for row, a in zip(kernels, scales, strict=True):
        u = (times / a) ** 2
        wavelet = amplitude(a, kernel) * (1 - u) * np.exp(-u / 2)
        np.add.at(row, -offset % size, np.where(abs(times) <= kernel_support(scales, length, kernel)[0], wavelet, 0))
    index = make_padding_index(length, start, reach, padding)
    complex_ = torch.complex128 if dtype == torch.float64 else torch.complex64
    return Spectra(
        None if index is None else make_cacheable_tensor(index, device, torch.long),
        size,
        start,
        make_cacheable_tensor(np.fft.rfft(kernels), device, complex_),
    )


def _next_fast_len(size: int) -> int:
    """Return the smallest even number of at least `size` without a prime factor above 5."""

    def remove_small_factors(n: int) -> int:
        for p in (2, 3, 5):
            while n % p == 0:
                n //= p
        return n

    return next(n for n in count(size) if n % 2 == 0 and remove_small_factors(n) == 1)


def _apply_fft(rows: Tensor, length: int, spectra: Spectra) -> Tensor:
    if spectra.index is not None:
        rows = rows.index_select(1, spectra.index)
    spectrum = torch.fft.rfft(rows, spectra.size)
    out = torch.fft.irfft(spectrum[:, None] * spectra.response, spectra.size)
    return out[..., spectra.start : spectra.start + length]


def _iter_frames(rows: Tensor, plan: Plan) -> Iterator[Tensor]:
    """Yield the frames of each level, [rows, blocks, M]."""
    padded = F.pad(rows, plan.pad) if plan.index is None else rows.index_select(1, plan.index)
    for level in plan.levels:
        source = padded[:, level.start :]
        if level.smoothing is not None:
            width, count = level.smoothing.shape
            source = (source.unfold(1, width, count * level.step)[:, : level.num_frames] @ level.smoothing).flatten(1)
        yield source.unfold(1, level.weight.shape[1], plan.patch[1] // level.step)[:, : plan.num_blocks]


def _apply_products(rows: Tensor, plan: Plan) -> Tensor:
    """Return [rows, groups, blocks, patch], with groups first in memory, so that each level is a single product."""
    groups, count, wide = sum(len(level.weight) for level in plan.levels), rows.shape[0], prod(plan.patch)
    levels = zip(_iter_frames(rows, plan), plan.levels, strict=True)
    products = ((frames.flatten(0, 1).expand(len(level.weight), -1, -1), level) for frames, level in levels)
    if torch.compiler.is_compiling() or (rows.requires_grad and torch.is_grad_enabled()):
        out = torch.cat([frames @ level.weight for frames, level in products])
    else:
        out = rows.new_empty(groups, count * plan.num_blocks, wide)
        for frames, (*_, first, weight) in products:
            torch.bmm(frames, weight, out=out[first : first + len(weight)])
    return out.view(groups, count, plan.num_blocks, wide).transpose(0, 1)
