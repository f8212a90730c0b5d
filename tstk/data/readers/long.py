"""Parse long tables: one row per series and time, with columns of ids, channels, labels and groups."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from tstk.data.containers import Samples, SeriesSet, normalize_label, pad_series, parse_floats
from tstk.errors import DataError

TIME_COLUMNS = ("time", "t", "step", "date", "datetime", "timestamp", "ds")

Rows = list[tuple[str, list[str]]]


def is_long(path: Path, lower_header: list[str], rows: Rows, id_index: int) -> bool:
    """Return whether the rows of an id are the samples of one series: all ids repeat, or some do and there are times.

    Args:
        path: the file, for messages
        lower_header: names of the columns in lower case
        rows: the location ("line 2") and the cells of each row
        id_index: the column of ids

    Raises:
        DataError: some ids repeat, but not all, and there is no column of times
    """
    locations: dict[str, list[str]] = {}
    for location, row in rows:
        locations.setdefault(row[id_index].strip(), []).append(location)
    if all(len(places) == 1 for places in locations.values()):
        return False
    if not set(lower_header) & set(TIME_COLUMNS) and any(len(places) == 1 for places in locations.values()):
        name, (first, second, *_) = next(item for item in locations.items() if len(item[1]) > 1)
        raise DataError(
            f"{path}, {second}: id {name!r} was in {first} already; remove one of the rows, "
            "or add a column 'time' if rows are samples"
        )
    return True


def parse_long_rows(
    path: Path,
    header: list[str],
    rows: Rows,
    id_index: int,
    label_index: int | None,
    group_index: int | None,
    is_label_certain: bool,
) -> SeriesSet:
    """Return the series, in the order in which their ids first occur.

    Args:
        path: the file, for messages
        header: names of the columns
        rows: the location ("line 2") and the cells of each row
        id_index: the column of ids
        label_index: the column of labels, if there is one
        group_index: the column of groups, if there is one
        is_label_certain: the label column holds labels; otherwise it is a channel if it changes within a series

    Raises:
        DataError: a cell is not a number, times repeat or run backwards, or a label changes within a series
    """
    lower_header = [name.strip().lower() for name in header]
    time_index = next((lower_header.index(name) for name in TIME_COLUMNS if name in lower_header), None)
    series: dict[str, Rows] = {}
    for location, row in rows:
        if not row[id_index].strip():
            raise DataError(f"{path}, {location}: no id; give it one, or remove the row")
        series.setdefault(normalize_label(row[id_index]), []).append((location, row))
    if label_index is not None and not is_label_certain:
        is_only_channel = set(range(len(header))) <= {id_index, label_index, time_index, group_index}
        if is_only_channel or any(len({row[label_index] for _, row in group}) > 1 for group in series.values()):
            label_index = None
    channels = [i for i in range(len(header)) if i not in (id_index, label_index, time_index, group_index)]
    if not channels:
        raise DataError(f"{path}: ids and times, but no column of samples; add one")
    num_uneven = 0
    if time_index is not None:
        num_uneven = sum(not _has_even_steps(path, name, group, time_index) for name, group in series.items())
    note = f"{path.name}: the times of {num_uneven} series are uneven; samples are used as if evenly spaced"
    return SeriesSet(
        x=pad_series([_stack_channels(path, group, channels) for group in series.values()], str(path)),
        source=str(path),
        y=None
        if label_index is None
        else [_get_constant_cell(path, name, group, label_index, "label") for name, group in series.items()],
        groups=None
        if group_index is None
        else [_get_constant_cell(path, name, group, group_index, "group") for name, group in series.items()],
        ids=list(series),
        channels=tuple(header[i].strip() for i in channels),
        note=note if num_uneven else "",
    )


def _stack_channels(path: Path, rows: Rows, channels: list[int]) -> Samples:
    """Return the samples [C, T] of one series."""
    return np.stack([parse_floats([row[i] for i in channels], f"{path}, {location}") for location, row in rows], 1)


def _get_constant_cell(path: Path, series_id: str, rows: Rows, column: int, kind: str) -> str:
    """Return the label or group of a series, which all its rows must share."""
    (first_location, first_row), *_ = rows
    for location, row in rows:
        if normalize_label(row[column]) != normalize_label(first_row[column]):
            raise DataError(
                f"{path}, {location}: {kind} {row[column].strip()!r} of id {series_id!r}, "
                f"which has {first_row[column].strip()!r} in {first_location}; a series has one {kind}, "
                "give its rows the same"
            )
    return normalize_label(first_row[column])


def _has_even_steps(path: Path, series_id: str, rows: Rows, time_index: int) -> bool:
    """Return whether times ascend in equal steps.

    Raises:
        DataError: times repeat, run backwards or cannot be parsed
    """
    times = np.array([_parse_time(row[time_index], f"{path}, {location}") for location, row in rows])
    steps = np.diff(times)
    if (bad := np.flatnonzero(steps <= 0)).size:
        previous_location, previous_row = rows[bad[0]]
        location, row = rows[bad[0] + 1]
        if steps[bad[0]] == 0:
            fault, remedy = "twice", "remove one of the rows"
        else:
            fault = f"after {previous_row[time_index].strip()} in {previous_location}"
            remedy = "sort the rows of each id by time"
        raise DataError(f"{path}, {location}: id {series_id!r} has time {row[time_index].strip()} {fault}; {remedy}")
    return not steps.size or bool(np.allclose(steps, steps[0], rtol=1e-3))


def _parse_time(cell: str, location: str) -> float:
    """Return a time as a number; of a date, the seconds since 1970."""
    try:
        return float(cell)
    except ValueError:
        pass
    try:
        # not .timestamp(), which depends on the local time zone
        return (datetime.fromisoformat(cell.strip()).replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()
    except ValueError:
        raise DataError(
            f"{location}: time {cell.strip()!r} is neither a number nor a date such as 2020-12-31"
        ) from None
