"""A class per sample: encode it, and cut recordings of any length into windows of the length of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import NA_VALUES, SeriesSet, Table, normalize_labels, sort_names
from tstk.data.memory import require_memory
from tstk.errors import DataError

SampleLabels = tuple[NDArray[np.int32], tuple[str, ...]]
"""Class index of each sample, -1 where unknown, and the names of the classes."""


def encode_sample_labels(cells: Iterable[object]) -> SampleLabels:
    """Return the classes [T] of a column of labels; an empty cell, ? or NaN is unknown."""
    names = normalize_labels(cells)
    classes = sort_names({name for name in names if name.lower() not in NA_VALUES})
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index.get(name, -1) for name in names], np.int32), classes


def merge_sample_labels(parts: Sequence[SampleLabels], length: int) -> SampleLabels:
    """Return the classes of several series as [N, length], padded with -1, by one list of names."""
    classes = sort_names({name for _, names in parts for name in names})
    merged = np.full((len(parts), length), -1, np.int32)
    for row, (labels, names) in zip(merged, parts, strict=True):
        row[: len(labels)] = recode_labels(labels, names, classes)
    return merged, classes


def recode_labels(labels: NDArray[np.int32], names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """Return indices into `names` as indices into `classes`, which holds them all; -1 stays unknown."""
    index = np.array([*(classes.index(name) for name in names), -1], np.int32)  # the last is that of -1
    return np.asarray(index[labels])


def table_to_series(table: Table) -> SeriesSet:
    """Return a table as a set of one series, a recording, with its class per row."""
    labels = None if table.sample_labels is None else table.sample_labels[None]
    return SeriesSet(
        np.ascontiguousarray(table.values.T)[None],
        table.source,
        channels=table.channels,
        classes=table.classes,
        note=table.note,
        sample_labels=labels,
    )


def cut_recordings(series_set: SeriesSet, length: int, stride: int, first_row: int | None = None) -> SeriesSet:
    """Cut recordings into windows, except those without any sample; the last one of each may be shorter.

    Every sample is in a window, unless `stride` is greater than `length`.

    The windows of a recording keep its id, and its group or, if there are no groups, its id as the group, by which
    they stay in one split.

    Args:
        series_set: the recordings
        length: samples of a window
        stride: samples from one window to the next
        first_row: place of the first sample in its file, if the set is one table, whose rows are split by time
    """
    x, source = np.asarray(series_set.x), series_set.source
    times = np.arange(1, x.shape[2] + 1)
    ends = [int((~np.isnan(series).all(0) * times).max()) for series in x]
    candidates = [
        (row, start) for row, end in enumerate(ends) for start in range(0, max(end - length, 0) + stride, stride)
    ]
    candidates = [(row, start) for row, start in candidates if start < ends[row]]
    places = [(row, start) for row, start in candidates if not np.isnan(x[row, :, start : start + length]).all()]
    require_memory(
        8 * len(places) * length * x.shape[1], f"{source}: {len(places):,} windows", "give a larger --stride"
    )
    windows = np.full((len(places), x.shape[1], length), np.nan, x.dtype)
    labels = None if series_set.sample_labels is None else np.full((len(places), length), -1, np.int32)
    for i, (row, start) in enumerate(places):
        stop = min(start + length, ends[row])
        windows[i, :, : stop - start] = x[row, :, start:stop]
        if labels is not None and series_set.sample_labels is not None:
            labels[i, : stop - start] = series_set.sample_labels[row, start:stop]
    notes = [series_set.note] * bool(series_set.note)
    if num_empty := len(candidates) - len(places):
        notes.append(f"{source}: {num_empty:,} windows without a sample are left out")
    rows, starts = np.array(places, np.int64).T
    ids = series_set.ids
    numbers = np.arange(len(x)) if series_set.rows is None else series_set.rows
    if ids is None and first_row is None:
        ids = [str(number) for number in numbers.tolist()]
    groups = ids if series_set.groups is None else series_set.groups
    return replace(
        series_set,
        x=windows,
        sample_labels=labels,
        times=None,
        sampling_rates=None,
        file_rows=None,
        note="; ".join(notes),
        ids=None if ids is None else [ids[row] for row in rows.tolist()],
        groups=None if groups is None else [groups[row] for row in rows.tolist()],
        rows=starts + (first_row or 0),
        recordings=numbers[rows],
    )


def check_recordings(series_set: SeriesSet, val_fraction: float) -> None:
    """Refuse to hold validation windows out of one recording, of which neighbours would be trained on.

    Raises:
        DataError: all windows are of one group
    """
    if val_fraction and series_set.recordings is not None and len(set(series_set.groups or ())) < 2:
        raise DataError(
            f"{series_set.source}: its windows are of one recording or group, so none can be held out for validation "
            "without training on its neighbours; name the recordings with --id-column or --group-column, give "
            "--val-data FILE, or train on all with --val-fraction 0"
        )
