"""Rows that are missing, repeated or between two times: they are said, and missing ones can be inserted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import SeriesSet, Table
from tstk.data.memory import require_memory
from tstk.data.times import (
    Step,
    Times,
    find_step,
    format_step,
    infer_step,
    insert_times,
    is_same_step,
    measure_median_step,
    measure_steps,
)
from tstk.errors import DataError, OptionError


def check_times(data: SeriesSet | Table, regularize: bool) -> SeriesSet | Table:
    """Insert the rows that are missing, or add to the note of the data that times are uneven.

    Args:
        data: with times, or without
        regularize: insert missing rows

    Raises:
        OptionError: missing rows cannot be inserted, as there are no times, or rows have labels
        DataError: a time repeats, or is not a whole number of steps after the one before it
    """
    if regularize and data.sample_labels is not None:
        raise OptionError("--regularize: the rows that it inserts would have no label; leave it out")
    if regularize:
        return insert_missing_rows(data) if isinstance(data, Table) else insert_missing_samples(data)
    notes = describe_uneven_times(data) if isinstance(data, Table) else describe_uneven_series(data)
    notes = [note for note in notes if note not in data.note]  # one set may be several splits
    data.note = "; ".join(filter(None, (data.note, *notes)))
    return data


def check_split_times(splits: Mapping[str, SeriesSet | Table], regularize: bool) -> dict[str, SeriesSet | Table]:
    """Check the times of each split, see `check_times`, and note in the first whether steps of series differ."""
    checked = {split: check_times(data, regularize) for split, data in splits.items()}
    if note := _describe_different_steps(checked.values()):
        first = next(iter(checked.values()))
        first.note = "; ".join(filter(None, (first.note, note)))
    return checked


def get_steps(data: SeriesSet | Table) -> list[Step | None]:
    """Return the step of each series, or of the table; None where it is unknown, or not constant."""
    times: Sequence[Times]
    rates: Sequence[float] | None
    if isinstance(data, SeriesSet):
        times, rates = data.times or (), data.sampling_rates
    else:
        times = () if data.times is None else (data.times,)
        rates = None if data.sampling_rate is None else [data.sampling_rate]
    return [(1e6 / rate, "us") for rate in rates] if rates else [measure_median_step(t) for t in times]


def find_median_step(data: SeriesSet | Table) -> Step | None:
    """Return the median of the steps of series, or the step of a table; None if it is unknown."""
    steps = sorted(step for step in get_steps(data) if step is not None)
    return steps[len(steps) // 2] if steps else None


def describe_other_step(step: Step | None, trained_step: Sequence[Any] | None) -> str:
    """Return that the step of data is another one than in training; an empty text if it is not, or one is unknown."""
    if step is None or trained_step is None or is_same_step(step, (trained := (trained_step[0], trained_step[1]))):
        return ""
    return f"samples are {format_step(step)} apart, and {format_step(trained)} in training"


def _describe_different_steps(parts: Iterable[SeriesSet | Table]) -> str:
    """Return a sentence on the series whose steps differ from the most frequent one; an empty text if none do."""
    groups: list[tuple[Step, list[str]]] = []
    for data in parts:
        for i, step in enumerate(get_steps(data)):
            if step is None:
                continue
            name = data.source if isinstance(data, Table) else data.ids[i] if data.ids else data.name_series(i)
            for first, names in groups:
                if is_same_step(first, step):
                    names.append(name)
                    break
            else:
                groups.append((step, [name]))
    if len(groups) < 2:
        return ""
    groups.sort(key=lambda group: -len(group[1]))
    (usual, names), others = groups[0], groups[1:]
    listed = [
        f"{format_step(step)} apart in {', '.join(names[:3])}" + f" and {len(names) - 3:,} more" * (len(names) > 3)
        for step, names in others[:3]
    ]
    more = f", and {len(others) - 3:,} other steps" if len(others) > 3 else ""
    return (
        f"samples are {format_step(usual)} apart in {len(names):,} series, and {', '.join(listed)}{more}, but are used "
        "as if all had one step: resample them to one; --regularize inserts missing samples where a step is a multiple"
    )


def describe_uneven_series(series_set: SeriesSet) -> list[str]:
    """Return a sentence on the number of series whose times are uneven, if there are any."""
    parts = [times for times in series_set.times or () if len(times.values) > 1]
    num_uneven = sum(not _is_nearly_even(times) and infer_step(times) is None for times in parts)
    if not num_uneven:
        return []
    return [
        f"{Path(series_set.source).name}: the times of {num_uneven} series are uneven; samples are used as if evenly "
        "spaced; --regularize inserts missing ones"
    ]


def _is_nearly_even(times: Times) -> bool:
    steps = np.diff(times.values).astype(np.float64)
    return bool(np.allclose(steps, steps[0], rtol=1e-3))


def insert_missing_samples(series_set: SeriesSet) -> SeriesSet:
    """Insert missing samples where times of a series are missing, so that all steps of all series are equal.

    Raises:
        OptionError: the series have no times
        DataError: a time is not a whole number of steps after the one before it
    """
    source = series_set.source
    if series_set.times is None:
        raise OptionError(f"--regularize has no meaning here: {source} is a set of series without times")
    if (step := find_step(series_set.times)) is None:
        return series_set
    positions = [_find_positions(times, step, series_set, i) for i, times in enumerate(series_set.times)]
    length = int(max(places[-1] for places in positions)) + 1
    counts = [int(places[-1]) + 1 - len(places) for places in positions]
    if not any(counts):
        return series_set
    num_series, num_channels, _ = series_set.x.shape
    remedy = "cut the file"
    require_memory(16 * num_series * num_channels * length, f"{source}: series of {length:,} samples", remedy)
    x = np.full((num_series, num_channels, length), np.nan, series_set.x.dtype)
    for i, places in enumerate(positions):
        x[i][:, places] = series_set.x[i][:, : len(places)]
    times = [insert_times(t, p, step[1]) for t, p in zip(series_set.times, positions, strict=True)]
    rows = series_set.file_rows or [np.arange(len(places)) for places in positions]
    file_rows = [_spread_rows(r, p) for r, p in zip(rows, positions, strict=True)]
    note = f"{sum(counts):,} missing rows of {np.count_nonzero(counts)} series are inserted without samples"
    note += f", so that steps are {format_step(step)}"
    note = "; ".join(filter(None, (series_set.note, note)))
    return replace(series_set, x=x, times=times, file_rows=file_rows, note=note)


def _find_positions(times: Times, step: Step, series_set: SeriesSet, index: int) -> NDArray[np.int64]:
    """Return the place of each sample of a series, in steps from the first."""
    if (measured := measure_steps(times, step)) is None:
        return np.zeros(len(times.values), np.int64)
    counts, _ = measured
    is_bad = (counts <= 0) | (counts != np.round(counts))
    if is_bad.any():
        sample = int(is_bad.argmax()) + 1
        raise DataError(
            f"--regularize: {series_set.source}: {series_set.name_series(index)}, time {_write(times, sample)}, is "
            f"{counts[sample - 1]:.3g} steps after {_write(times, sample - 1)}, and steps are {format_step(step)}; "
            "average the rows of each step"
        )
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def describe_uneven_times(table: Table) -> list[str]:
    """Return a sentence for each way in which the times of a table are uneven: repeated, missing or in between."""
    if table.times is None or (measured := measure_steps(table.times)) is None:
        return []
    counts, step = measured
    is_whole = counts == np.round(counts)
    lines = []
    for is_bad, fault, remedy in (
        (counts == 0, "repeats the time of the row above", "rows are used as they stand"),
        (is_whole & (counts > 1), "follows a gap", "windows run over it; --regularize inserts missing rows"),
        (~is_whole, f"is not a whole number of steps of {step} after the row above", "rows are used as evenly spaced"),
    ):
        if num := int(is_bad.sum()):
            row = int(is_bad.argmax()) + 1
            more = f" (and {num - 1:,} more)" if num > 1 else ""
            lines.append(f"{table.source}: row {row + 1}{more} {fault}, time {_write(table.times, row)}; {remedy}")
    return lines


def insert_missing_rows(table: Table) -> Table:
    """Insert a row without samples for each time that is missing, so that times are evenly spaced.

    Raises:
        OptionError: the table has no times
        DataError: a time repeats, or is not a whole number of steps after the one before it
    """
    if table.times is None:
        raise OptionError(f"--regularize: {table.source} has no column of times; give --time-column")
    if (measured := measure_steps(table.times)) is None:
        return table
    counts, step = measured
    is_bad = (counts == 0) | (counts != np.round(counts))
    if is_bad.any():
        row = int(is_bad.argmax()) + 1
        fault = "repeats the time of the row above" if counts[row - 1] == 0 else f"is {counts[row - 1]:.3g} steps later"
        raise DataError(
            f"--regularize: {table.source}: row {row + 1}, time {_write(table.times, row)}, {fault}, and steps are "
            f"{step}; give each time one row, or average the rows of each step"
        )
    positions = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    num_rows = int(positions[-1]) + 1
    num_bytes = 16 * num_rows * (table.values.shape[1] + 1)
    require_memory(
        num_bytes, f"{table.source}: {num_rows:,} rows, with those that --regularize inserts,", "cut the file"
    )
    values = np.full((num_rows, table.values.shape[1]), np.nan, table.values.dtype)
    values[positions] = table.values
    note = f"{num_rows - len(positions):,} missing rows are inserted without samples, so that steps are {step}"
    note = "; ".join(filter(None, (table.note, note)))
    times, file_rows = insert_times(table.times, positions), _spread_rows(np.arange(len(positions)), positions)
    return replace(table, values=values, times=times, file_rows=file_rows, note=note)


def _spread_rows(rows: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of the file [N] at their positions [N], and -1 at those between them."""
    spread = np.full(int(positions[-1]) + 1, -1)
    spread[positions] = rows
    return spread


def _write(times: Times, row: int) -> str:
    return times[row : row + 1].write()[0]
