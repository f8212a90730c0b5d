"""Keep samples apart whose level is large beside their variation, such as counters, coordinates and times.

Models compute in float32, whose 24 bits a large level takes up: 1e8 and 1e8 + 1 are the same number. Such series stay
float64 until an offset per channel is subtracted; all others become float32 when they are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.lazy_array import LazyArray, Samples, iter_chunks

MAX_RELATIVE_SPACING = 0.01
"""Largest distance of neighbouring float32 numbers, in standard deviations, at which samples count as distinct."""

MIN_RELATIVE_STD = 1e-12
"""Standard deviation, relative to the largest value, up to which a float64 channel is constant but for rounding."""


def to_float32(x: NDArray[Any] | LazyArray) -> tuple[Samples | LazyArray, str]:
    """Return samples [N, C, T] as float32, or as float64 if float32 cannot tell the samples of a channel apart.

    Returns:
        the samples, and a note if float32 cannot tell apart those of many series, whatever the offset of their channel
    """
    if not _has_more_digits(x.file_dtype if isinstance(x, LazyArray) else x.dtype):
        return (x if isinstance(x, LazyArray) else np.asarray(x, np.float32)), ""
    exact = x.astype(np.float64)
    is_coarse, mean = find_coarse_channels(exact)
    note = _describe_coarse_series(exact, np.where(is_coarse, mean, 0.0))
    dtype = np.float64 if is_coarse.any() else np.float32
    with np.errstate(over="ignore"):  # an infinite sample is refused later
        return exact.astype(dtype), note


def _has_more_digits(dtype: np.dtype[Any]) -> bool:
    """Return whether numbers of this type have more than the 24 bits of float32."""
    return dtype.kind in "fiu" and dtype.itemsize > (4 if dtype.kind == "f" else 2)


def compute_offset(x: Samples | LazyArray) -> NDArray[np.float64] | None:
    """Return the mean [C] of the channels that float32 cannot hold, 0 for others; None if it can hold all.

    Args:
        x: [N, C, T] samples, from `to_float32`
    """
    if x.dtype != np.float64:
        return None
    is_coarse, mean = find_coarse_channels(x)
    return np.where(is_coarse, mean, 0.0)


def subtract_offset(x: Samples | LazyArray, offset: NDArray[np.float64] | None) -> NDArray[np.float32] | LazyArray:
    """Subtract an offset [C] from samples [..., C, T] in float64, and return them as float32."""
    if isinstance(x, LazyArray):
        return x.astype(np.float32).subtract(offset)
    return np.asarray(x if offset is None else x - offset[:, None], np.float32)


@np.errstate(over="ignore", invalid="ignore")  # samples near the end of float64 are refused later
def find_coarse_channels(x: NDArray[Any] | LazyArray) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return the channels [C] whose samples float32 cannot tell apart, and the mean of each channel.

    Args:
        x: [N, C, T] samples, NaN where missing
    """
    count, mean, m2, largest = np.zeros((4, x.shape[1]))  # m2: sum of squared deviations from the mean
    for chunk in iter_chunks(x):
        chunk = np.asarray(chunk, np.float64)
        observed = np.isfinite(chunk)
        chunk_count = observed.sum((0, 2))
        total = np.maximum(count + chunk_count, 1)
        chunk_mean = chunk.sum((0, 2), where=observed) / np.maximum(chunk_count, 1)
        delta = chunk_mean - mean  # merge the statistics as Chan et al. 1979 do
        deviations = np.where(observed, chunk - chunk_mean[:, None], 0)
        m2 += np.square(deviations).sum((0, 2)) + delta**2 * count * chunk_count / total
        mean += delta * chunk_count / total
        count += chunk_count
        largest = np.maximum(largest, np.abs(chunk).max((0, 2), initial=0, where=observed))
    return _is_coarse(np.sqrt(m2 / np.maximum(count, 1)), largest), mean


def _is_coarse(std: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where float32 cannot tell apart samples of a standard deviation and a largest absolute value."""
    spacing = np.spacing(largest.astype(np.float32))
    return (spacing > MAX_RELATIVE_SPACING * std) & (std > MIN_RELATIVE_STD * largest)


@np.errstate(over="ignore", invalid="ignore")
def _describe_coarse_series(x: NDArray[Any] | LazyArray, offset: NDArray[np.float64]) -> str:
    """Return a note if float32 cannot tell apart the samples of more than a tenth of the series, less an offset [C]."""
    count = 0
    for chunk in iter_chunks(x):
        chunk = np.asarray(chunk, np.float64) - offset[:, None]
        observed = np.isfinite(chunk)
        num_observed = np.maximum(observed.sum(2), 1)
        mean = chunk.sum(2, where=observed) / num_observed
        deviations = np.where(observed, chunk - mean[..., None], 0)
        std = np.sqrt(np.square(deviations).sum(2) / num_observed)
        largest = np.abs(chunk).max(2, initial=0, where=observed)
        count += int(_is_coarse(std, largest).any(1).sum())
    if 10 * count <= len(x):
        return ""
    return (
        f"in {count} of {len(x)} series float32 cannot tell samples apart, whose level differs from series to series; "
        "subtract a constant from each, or take differences"
    )


def describe_offset(x: Samples | LazyArray, channels: tuple[str, ...], offset: NDArray[np.float64] | None) -> list[str]:
    """Return a note for each channel whose offset is subtracted, or should be.

    Args:
        x: [N, C, T] samples of the training split, from `to_float32`
        channels: C names
        offset: [C] that is subtracted; None if none is
    """
    if x.dtype != np.float64:
        return []
    is_coarse, mean = find_coarse_channels(x)
    remedy = "" if offset is not None else "; subtract a constant from it, or use --standardize standard"
    done = "" if offset is None else ", so this offset is subtracted first"
    return [
        f"channel {name}: float32 cannot tell samples around {level:.6g} apart{done}{remedy}"
        for name, level, coarse in zip(channels, mean, is_coarse, strict=True)
        if coarse
    ]
