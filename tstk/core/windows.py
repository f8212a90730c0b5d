"""Overlapping windows over series of any length, whose results are averaged sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.finite import find_overflow
from tstk.core.interfaces import BasePipeline
from tstk.core.prediction import eval_mode
from tstk.core.types import Series
from tstk.errors import DataError, OptionError

MAX_SERIES = 1 << 31
"""Largest number of samples per series: `sample_id` of a window is its series times this, plus its first sample."""


def average_windows(
    pipeline: BasePipeline,
    x: Tensor,
    function: Callable[[Series], Tensor],
    *,
    ends: Tensor | None = None,
    stride: int | None = None,
    batch_size: int = 256,
    source: str = "x",
) -> NDArray[np.float64]:
    """Apply a function to overlapping windows of every series, and average its results at each sample.

    All windows have the length of the model, or that of the longest series if it is shorter, so nothing depends on
    the batch. The last window of a series ends with it.

    Args:
        pipeline: whose length and device are used, in eval mode and without gradients
        x: [N, C, T] samples in the units of the data less its offset, NaN where missing
        function: maps windows [B, C, L] to results [B, K, L], NaN where it has none
        ends: [N] long, samples of each series; up to the last observed one if None
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time
        source: where the series come from, for messages

    Returns:
        [N, K, T], NaN where no window has a result

    Raises:
        OptionError: the stride would skip samples
        DataError: a sample is too large for float32
    """
    if ends is None:
        ends = count_samples(x)
    overflow = find_overflow(x, pipeline.mean.cpu(), pipeline.std.cpu()).nonzero().flatten().tolist()
    if overflow:
        raise DataError(f"{source}: series {overflow[0] + 1} has samples too large for float32; rescale or remove it")
    totals = counts = None
    with eval_mode(pipeline):
        for rows, starts, windows in iter_windows(pipeline, x, ends, stride, batch_size):
            values = function(windows.to(pipeline.mean.device)).double().cpu().numpy()
            if totals is None or counts is None:
                totals, counts = np.zeros((2, len(x), values.shape[1], x.shape[2]))
            for row, start, value in zip(rows, starts, values, strict=True):
                known = np.isfinite(value)
                totals[row, :, start : start + value.shape[1]] += np.where(known, value, 0.0)
                counts[row, :, start : start + value.shape[1]] += known
    if totals is None or counts is None:
        return np.full(x.shape, np.nan)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def iter_windows(
    pipeline: BasePipeline, x: Tensor, ends: Tensor, stride: int | None = None, batch_size: int = 256
) -> Iterator[tuple[list[int], list[int], Series]]:
    """Iterate over the windows that have an observed sample, as batches with the series and first sample of each.

    Args: as of `average_windows`
    """
    length = min(pipeline.spec.length, x.shape[2])
    stride = max(1, length // 2) if stride is None else stride
    if not 1 <= stride <= length:
        raise OptionError(f"--stride {stride}: expected 1 to {length}, the length of a window, or samples are skipped")
    places = [
        (row, start)
        for row, end in enumerate(ends.tolist())
        for start in dict.fromkeys([*range(0, max(end - length, 0), stride), max(end - length, 0)])
    ]
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        windows = torch.stack([x[row, :, start : start + length] for row, start in batch])
        observed = ~windows.isnan()
        kept = observed.flatten(1).any(1)
        if kept.any():
            rows, starts = zip(*(place for place, keep in zip(batch, kept.tolist(), strict=True) if keep), strict=True)
            sample_id = torch.tensor(rows) * MAX_SERIES + torch.tensor(starts)
            windows, observed = windows[kept], observed[kept]
            series = Series(windows.masked_fill(~observed, 0.0).float(), observed, sample_id=sample_id)
            yield list(rows), list(starts), series


def split_sample_id(sample_id: Tensor) -> tuple[Tensor, Tensor]:
    """Return the series and the first sample of windows from `iter_windows`, [B] long each."""
    return sample_id // MAX_SERIES, sample_id % MAX_SERIES


def count_samples(x: Tensor) -> Tensor:
    """Return [N] long, the samples of each series [N, C, T] up to the last one observed in any channel."""
    return (~x.isnan()).any(1).mul(torch.arange(1, x.shape[2] + 1)).amax(1)
