"""The splits of a data set, indexed a batch at a time: `SeriesDataset`, or `WindowDataset` over a table.

Values are not scaled, and NaN marks missing samples; batches hold zeros and a mask instead. Symbols: N series or
windows, B batch, C channels, T samples, H horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.repr import ShortRepr
from tstk.core.types import Series, Split
from tstk.data.containers import describe_series
from tstk.data.lazy_array import LazyArray, iter_chunks
from tstk.data.times import Times


@dataclass(repr=False)
class Conditioning(ShortRepr):
    """Additional inputs of the samples of a split, such as encoded texts; equal ones are stored once.

    Args:
        states: [U, S, D] float32, U sequences of S states
        valid: [U, S] bool, False where a sequence is padded
        state_index: [N] long, the sequence of each sample
    """

    states: Tensor
    valid: Tensor
    state_index: Tensor

    def select(self, index: Tensor) -> Conditioning:
        """Return the conditioning of the samples at `index` [B] long."""
        return Conditioning(self.states, self.valid, self.state_index[index])

    def content_ids(self) -> Tensor:
        """Return [N] long, equal for samples with the same valid states."""
        content = (self.states * self.valid[..., None]).flatten(1)
        return content.unique(dim=0, return_inverse=True)[1][self.state_index]


class SeriesDataset(ShortRepr):
    """Series with or without labels, in memory or in their file.

    Args:
        x: [N, C, T] samples, NaN where missing or beyond the end
        y: [N], [N, K] or [N, T] targets as in `Series.y`, or None
        groups: N names, or None
        conditioning: additional inputs, by name
        ids: N names of the series, or None
        rows: [N] long, the place of each series in its file, from 0; in order if None
        has_class_per_sample: y is [N, T], a class per sample
        recordings: [N] long, the recording of which each series is a window; None if series are whole
        weight: [N] by which the loss of each series is multiplied; None if all count alike
    """

    def __init__(
        self,
        x: Tensor | LazyArray,
        y: Tensor | None = None,
        groups: list[str] | None = None,
        conditioning: dict[str, Conditioning] | None = None,
        *,
        ids: list[str] | None = None,
        rows: Tensor | None = None,
        has_class_per_sample: bool = False,
        recordings: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        self.has_class_per_sample, self.recordings, self.weight = has_class_per_sample, recordings, weight
        self.x, self.y, self.groups, self.ids, self.conditioning = x, y, groups, ids, conditioning or {}
        self.rows: Tensor | None = torch.arange(len(x)) if rows is None else rows
        ends = torch.arange(1, x.shape[2] + 1)
        self.lengths = torch.empty(len(x), dtype=torch.long)  # filled in place: many small tensors fragment the heap
        start = 0
        for chunk in iter_chunks(x):
            is_observed = ~torch.as_tensor(chunk).isnan().all(1)
            self.lengths[start : start + len(is_observed)] = (is_observed * ends).amax(1)
            start += len(is_observed)

    def _get_repr_fields(self) -> dict[str, Any]:
        groups = None if self.groups is None else len(set(self.groups))
        return {"x": self.x, "y": self.y, "groups": groups, "conditioning": self.conditioning}

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Series:
        """Return the series at `index` [B] long, cropped to the longest among them.

        A sample that is missing or beyond the end is 0 in `x` and False in `observed`.
        """
        length = int(self.lengths[index].max())
        x, observed = _zero_fill(torch.as_tensor(self.x[index, :, :length]))
        y = None if self.y is None else self.y[index]
        if y is not None and self.has_class_per_sample:
            y = y[:, :length]
        conditioning = {
            name: (c.states[c.state_index[index]], c.valid[c.state_index[index]])
            for name, c in self.conditioning.items()
        }
        return Series(x, observed, y, index, conditioning, None if self.weight is None else self.weight[index])

    def select(self, index: Tensor) -> SeriesDataset:
        """Return a data set of the series at `index` [B] long."""
        subset = copy(self)
        subset.x = self.x.select(index) if isinstance(self.x, LazyArray) else self.x[index]
        subset.y = None if self.y is None else self.y[index]
        subset.groups = None if self.groups is None else [self.groups[i] for i in index.tolist()]
        subset.ids = None if self.ids is None else [self.ids[i] for i in index.tolist()]
        subset.rows = None if self.rows is None else self.rows[index]
        subset.recordings = None if self.recordings is None else self.recordings[index]
        subset.weight = None if self.weight is None else self.weight[index]
        subset.lengths = self.lengths[index]
        subset.conditioning = {name: c.select(index) for name, c in self.conditioning.items()}
        return subset


class RepeatDataset(ShortRepr):
    """A data set whose series may occur more than once; nothing is copied.

    Args:
        dataset: the series, whose labels and groups are dropped
        indices: [N] long, the series to use, in order
    """

    y: Tensor | None = None
    groups: list[str] | None = None
    ids: list[str] | None = None
    rows: Tensor | None = None

    def __init__(self, dataset: SeriesDataset, indices: Tensor) -> None:
        self.dataset, self.indices, self.lengths = dataset, indices, dataset.lengths[indices]

    def _get_repr_fields(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "indices": self.indices}

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, index: Tensor) -> Series:
        """Return the series at `index` [B] long; each repetition of a series has its own `sample_id`."""
        return self.dataset.batch(self.indices[index]).replace(y=None, sample_id=index)


class GeneratedDataset(ShortRepr):
    """Series that are generated for each batch, of one length and without labels.

    Args:
        generate: maps indices of series [B] long to their samples [B, C, T]
        count: number of series
        length: samples of each
        start_index: index of the first series in the generator
    """

    y: Tensor | None = None
    groups: list[str] | None = None
    ids: list[str] | None = None
    rows: Tensor | None = None

    def __init__(self, generate: Callable[[Tensor], Tensor], count: int, length: int, start_index: int = 0) -> None:
        self.generate, self.start_index, self.lengths = generate, start_index, torch.full((count,), length)

    def _get_repr_fields(self) -> dict[str, Any]:
        return {"count": len(self), "length": int(self.lengths[0]), "start_index": self.start_index}

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Tensor) -> Series:
        """Return the series at `index` [B] long."""
        return Series(self.generate(self.start_index + index), sample_id=index)


@dataclass(frozen=True)
class Segment:
    """Rows of a table that are one series, which no window leaves.

    Args:
        num_rows: how many
        first_row: place of the first one in its file or series, from 0
        times: of the rows, or None
        name: of the series; None where the table has no other
        file_rows: place of each row in its file or series, from 0, and -1 for those that were inserted; None if rows
            follow each other from the first one
    """

    num_rows: int
    first_row: int = 0
    times: Times | None = None
    name: str | None = None
    file_rows: NDArray[np.int64] | None = None

    def get_file_rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places in the file or series of rows [M] of the segment; -1 for those that were inserted."""
        return self.first_row + places if self.file_rows is None else self.file_rows[places]


class WindowDataset(ShortRepr):
    """Windows of `context` rows of a table, each with the `horizon` rows that follow it; a view, nothing is copied.

    Args:
        table: [C, T] samples, NaN where missing; of several series, one after the other
        context: rows that the model sees
        horizon: rows to forecast; 0 yields windows without targets
        stride: rows from one window of a series to the next
        segments: the series; the whole table is one if None
    """

    y: Tensor | None = None
    groups: list[str] | None = None

    def __init__(
        self, table: Tensor, context: int, horizon: int, stride: int = 1, *, segments: Sequence[Segment] | None = None
    ) -> None:
        self.table, self.context, self.horizon = table, context, horizon
        self.segments = [Segment(table.shape[1])] if segments is None else list(segments)
        length = context + horizon
        self._unfolded = table.unfold(1, length, 1) if table.shape[1] >= length else table.new_empty(0, 0, length)
        starts = [torch.arange(0, max(segment.num_rows - length + 1, 0), stride) for segment in self.segments]
        self._num_windows = [len(numbers) for numbers in starts]
        self._segment_index = torch.arange(len(starts)).repeat_interleave(torch.tensor(self._num_windows))
        before = torch.tensor([0, *(segment.num_rows for segment in self.segments[:-1])]).cumsum(0)
        self._starts = torch.cat(starts)
        self._table_starts = self._starts + before[self._segment_index]
        rows = [segment.get_file_rows(n.numpy()) for segment, n in zip(self.segments, starts, strict=True)]
        self.rows: Tensor | None = torch.from_numpy(np.concatenate(rows))
        self.lengths = torch.full((len(self),), context)

    @property
    def recordings(self) -> Tensor | None:
        """The series [N] of which each window is a part; None if the table is the only one."""
        return None if self.segments[0].name is None else self._segment_index

    @property
    def ids(self) -> list[str] | None:
        """The name of the series of each window; the time at which the window begins if there is one series."""
        if self.recordings is None:
            return self.start_times
        return [str(self.segments[i].name) for i in self.recordings.tolist()]

    @property
    def start_times(self) -> list[str] | None:
        """The time at which each window begins, or None."""
        written: list[str] = []
        for segment, starts in zip(self.segments, self._starts.split(self._num_windows), strict=True):
            if segment.times is None:
                return None
            written += segment.times[starts.numpy()].write()
        return written

    @property
    def last_windows(self) -> Tensor:
        """The last window of each series that has one, [M] long."""
        counts = torch.tensor(self._num_windows)
        return (counts.cumsum(0) - 1)[counts > 0]

    def list_tables(self) -> list[Tensor]:
        """Return the rows of each series, [C, T_i]."""
        return list(self.table.split([segment.num_rows for segment in self.segments], 1))

    def get_segment(self, row: int) -> Segment:
        """Return the series of a window."""
        return self.segments[int(self._segment_index[row])]

    def name_row(self, row: int) -> str:
        """Return how messages name a row of the table: by its place in the file from 1, or its series and time."""
        ends = np.cumsum([segment.num_rows for segment in self.segments])
        i = int(np.searchsorted(ends, row, side="right"))
        segment, place = self.segments[i], row - int(ends[i]) + self.segments[i].num_rows
        if segment.name is not None and segment.times is not None:
            return f"series {segment.name}, time {segment.times[place : place + 1].write()[0]}"
        series = "" if segment.name is None else f"series {segment.name}, "
        return f"{series}row {int(segment.get_file_rows(np.array([place]))[0]) + 1}"

    def get_times(self, row: int, length: int) -> NDArray[Any] | None:
        """Return the times of the first `length` rows of a window and its targets, as clocks show them; or None."""
        start, times = int(self._starts[row]), self.get_segment(row).times
        return None if times is None else times[start : start + length].wall_times

    def _get_repr_fields(self) -> dict[str, Any]:
        return {"windows": len(self), "context": self.context, "horizon": self.horizon, "table": self.table}

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, index: Tensor) -> Series:
        """Return the windows at `index` [B] long.

        `y` holds the targets [B, C, H]; missing ones stay NaN, so `~y.isnan()` is their mask.
        """
        rows = self._unfolded[:, self._table_starts[index]].transpose(0, 1)
        x, observed = _zero_fill(rows[..., : self.context].contiguous())
        return Series(x, observed, rows[..., self.context :].contiguous() if self.horizon else None, index)


def name_series(split: Split, index: int) -> str:
    """Return how messages name a series of a split: its number in the file, counted from 1, and its id."""
    recordings = split.recordings if isinstance(split, SeriesDataset | WindowDataset) else None
    recording = None if recordings is None else int(recordings[index])
    row = index if split.rows is None else int(split.rows[index])
    return describe_series(row, recording, None if split.ids is None else split.ids[index])


def _zero_fill(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Replace NaN by zero, and return where samples are observed; None if everywhere."""
    missing = x.isnan()
    if not missing.any():
        return x, None
    return x.masked_fill(missing, 0.0), ~missing
