"""How many series are computed at once where nothing is learned from them, so that long ones fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tstk.core.types import Split

MAX_BATCH_SAMPLES = 2**21
"""Samples in a batch, over all series and channels; a tokenizer takes about 1 kB for each without gradients."""


def limit_batch_size(batch_size: int, samples_per_series: int) -> int:
    """Return a batch size that holds at most `MAX_BATCH_SAMPLES`, or one series."""
    return max(1, min(batch_size, MAX_BATCH_SAMPLES // max(samples_per_series, 1)))


def split_rows(split: Split, batch_size: int, rows: Tensor | None = None) -> Sequence[Tensor]:
    """Divide rows of a split into batches, smaller ones where series are long.

    Args:
        split: the series
        batch_size: series at a time, at most
        rows: [R] long; None for all, in order
    """
    rows = torch.arange(len(split)) if rows is None else rows
    if len(rows) > 1:
        channels = split.batch(rows[:1]).x.shape[1]
        batch_size = limit_batch_size(batch_size, channels * int(split.lengths[rows].max()))
    return rows.split(batch_size)
