"""Composites of plain torch: a few short products per level of a plan, or one real FFT with cached spectra.

The products win wherever kernels can be had from a smoothed series; the FFT wins where they end abruptly (published
kernels of large scales) or are longer than the steps of a plan suit. Traced graphs hold products only.
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

from tstk.kernels.ricker_cwt.plan import REARRANGE, Gains, Plan, amplitude, gains, kept, layout, padded, plan, support

Function = TypeVar("Function", bound=Callable[..., Any])

FFT = 90  # what an FFT costs in multiplications per value
WHOLE = 7.5  # widths beyond which a wavelet is below 1e-10 of its peak


def _constant_while_tracing(function: Function) -> Function:
    """Do what torch.compiler.assume_constant_result does, without its import of the compiler and of Triton."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Spectra(NamedTuple):
    """What the FFT needs.

    Args:
        index: which sample stands at each place of the padded row, if it is not zeros beyond its end
        size: samples of the transform
        start: where the output begins in it
        response: [scales, size / 2 + 1] complex
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
    way: Literal["products", "fft"] | None = None,
) -> Tensor:
    """As `tstk.kernels.ricker_cwt`; `way` forces what is otherwise chosen by shape."""
    length = constant(x.shape[-1])  # a plan is for one length, also while tracing
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tracing = torch.compiler.is_compiling()
    autocast = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
        rows = x.to(dtype).reshape(prod(x.shape[:-1]), length)
        rows, mean = centre(rows, padding)
        chosen = _choose(scales, length, padding, kernel, patch, x.device, dtype, "products" if tracing else way)
        if isinstance(chosen, Spectra):
            out, in_patches = _fft(rows, length, chosen), False
        else:
            out, in_patches = _products(rows, chosen), patch is not None and chosen.patch == patch
            if not in_patches:
                out = out.flatten(2)[..., :length]
        if patch is not None and not in_patches:
            out = patches(out, patch)
        out = restore(out, mean, scales, length, kernel, patch)
    return out.reshape(*x.shape[:-1], *out.shape[1:])


def centre(rows: Tensor, padding: str) -> tuple[Tensor, Tensor | None]:
    """Subtract the mean of each row [R, T] where the padding continues it; `restore` adds what becomes of it.

    A wavelet takes a constant away but for rounding, which a large one would bring into the result.
    """
    if padding == "zero":
        return rows, None
    mean = rows.detach().mean(1, keepdim=True)
    return rows - mean, mean


def restore(
    out: Tensor,
    mean: Tensor | None,
    scales: tuple[float, ...],
    length: int,
    kernel: str,
    patch: tuple[int, int] | None,
) -> Tensor:
    """Add what the transform makes of the mean that `centre` subtracted, [R, S, T] or in patches."""
    if mean is None:
        return out
    first, last, gain = _gains(scales, length, kernel, patch, out.device, out.dtype)
    if gain is None:
        return out
    mean = mean.reshape(-1, *[1] * (out.ndim - 1))
    if torch.compiler.is_compiling():
        return out + mean * gain
    out.detach()[:, first:last] += mean * gain[first:last]  # a constant: no gradient passes through it
    return out


@_constant_while_tracing
def _gains(
    scales: tuple[float, ...],
    length: int,
    kernel: str,
    patch: tuple[int, int] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Gains:
    """As `gains`, a constant while tracing."""
    return gains(scales, length, kernel, patch, device, dtype)


def patches(image: Tensor, patch: tuple[int, int]) -> Tensor:
    """[R, scales, T] as contiguous patches [R, scales / patch[0], T / patch[1], patch[0] * patch[1]]."""
    high, wide = patch
    return image.unflatten(2, (-1, wide)).unflatten(1, (-1, high)).transpose(2, 3).contiguous().flatten(3)


@_constant_while_tracing
def _choose(
    scales: tuple[float, ...],
    length: int,
    padding: str,
    kernel: str,
    patch: tuple[int, int] | None,
    device: torch.device,
    dtype: torch.dtype,
    way: str | None,
) -> Plan | Spectra:
    """What `way` says, or the cheaper one."""
    laid, cost = layout(scales, length, kernel, patch)
    if (way or ("fft" if FFT + REARRANGE * (patch is not None) < cost else "products")) == "fft":
        return _spectra(scales, length, padding, kernel, device, dtype)
    return plan(scales, length, padding, kernel, laid, device, dtype)


@lru_cache(maxsize=16)
def _spectra(
    scales: tuple[float, ...], length: int, padding: str, kernel: str, device: torch.device, dtype: torch.dtype
) -> Spectra:
    reach, shift = support(scales, length, kernel)
    reach = ceil(min(WHOLE * max(scales), reach) + shift)
    start = 0 if padding == "zero" else reach  # zeros at the end serve both ends, the transform being a circle
    size = _smooth(start + length + reach)
    offset = np.arange(-reach, reach + 1)
    at = offset + shift
    kernels = np.zeros((len(scales), size))
    for row, a in zip(kernels, scales, strict=True):
        u = (at / a) ** 2
        wavelet = amplitude(a, kernel) * (1 - u) * np.exp(-u / 2)
        np.add.at(row, -offset % size, np.where(abs(at) <= support(scales, length, kernel)[0], wavelet, 0))
    index = padded(length, start, reach, padding)
    complex_ = torch.complex128 if dtype == torch.float64 else torch.complex64
    return Spectra(
        None if index is None else kept(index, device, torch.long),
        size,
        start,
        kept(np.fft.rfft(kernels), device, complex_),
    )


def _smooth(size: int) -> int:
    """The next even number with no prime factor above 5."""

    def rest(n: int) -> int:
        for p in (2, 3, 5):
            while n % p == 0:
                n //= p
        return n

    return next(n for n in count(size) if n % 2 == 0 and rest(n) == 1)


def _fft(rows: Tensor, length: int, spectra: Spectra) -> Tensor:
    if spectra.index is not None:
        rows = rows.index_select(1, spectra.index)
    spectrum = torch.fft.rfft(rows, spectra.size)
    out = torch.fft.irfft(spectrum[:, None] * spectra.response, spectra.size)
    return out[..., spectra.start : spectra.start + length]


def _frames(rows: Tensor, plan: Plan) -> Iterator[Tensor]:
    """[rows, blocks, M] of each level."""
    padded = F.pad(rows, plan.pad) if plan.index is None else rows.index_select(1, plan.index)
    for level in plan.levels:
        source = padded[:, level.start :]
        if level.smooth is not None:
            width, count = level.smooth.shape
            source = (source.unfold(1, width, count * level.step)[:, : level.frames] @ level.smooth).flatten(1)
        yield source.unfold(1, level.weight.shape[1], plan.patch[1] // level.step)[:, : plan.blocks]


def _products(rows: Tensor, plan: Plan) -> Tensor:
    """[rows, groups, blocks, patch]; in memory groups come first, so that each level is one product for all rows."""
    groups, count, wide = sum(len(level.weight) for level in plan.levels), rows.shape[0], prod(plan.patch)
    levels = zip(_frames(rows, plan), plan.levels, strict=True)
    products = ((frames.flatten(0, 1).expand(len(level.weight), -1, -1), level) for frames, level in levels)
    if torch.compiler.is_compiling() or (rows.requires_grad and torch.is_grad_enabled()):
        out = torch.cat([frames @ level.weight for frames, level in products])
    else:
        out = rows.new_empty(groups, count * plan.blocks, wide)
        for frames, (*_, first, weight) in products:
            torch.bmm(frames, weight, out=out[first : first + len(weight)])
    return out.view(groups, count, plan.blocks, wide).transpose(0, 1)
