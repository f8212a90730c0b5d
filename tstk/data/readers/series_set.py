"""Build series from the samples and the assigned columns of a frame."""

from __future__ import annotations

from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import NA_VALUES, Samples, SeriesSet, normalize_labels, pad_series
from tstk.data.readers.assignment import Assignment
from tstk.data.readers.frame import Frame
from tstk.data.times import Times
from tstk.errors import DataError


def build_series_set(
    assignment: Assignment,
    values: Any,
    channels: tuple[str, ...],
    note: str,
    rows: list[int] | None = None,
    times: list[Times] | None = None,
    file_rows: list[NDArray[np.int64]] | None = None,
) -> SeriesSet:
    """Return series with the labels, groups, ids and targets of their rows.

    Args:
        assignment: the roles
        values: [N, C, T]
        channels: C names
        note: what was taken for what
        rows: the row of the frame that holds them, for each series; None means that each row is a series
        times: of the samples of each series
        file_rows: rows of the frame that are the samples of each series
    """
    frame = assignment.frame

    def get_texts(index: int | None) -> list[str] | None:
        if index is None:
            return None
        cells = frame.get_text(index)
        return normalize_labels(cells if rows is None else [cells[row] for row in rows])

    ids = get_texts(assignment.id)
    if ids is not None and rows is None:
        _check_ids(frame, ids, frame.names[assignment.id or 0])
    targets = None
    if assignment.targets:
        targets = frame.get_samples(assignment.targets)[slice(None) if rows is None else rows]
    return SeriesSet(
        x=values,
        source=str(frame.path),
        y=get_texts(assignment.label),
        groups=get_texts(assignment.group),
        ids=ids,
        targets=targets,
        target_names=tuple(frame.names[i] for i in assignment.targets),
        channels=channels,
        note=note,
        times=times,
        file_rows=file_rows,
    )


def _check_ids(frame: Frame, ids: list[str], column: str) -> None:
    """Refuse ids that are missing or repeat."""
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name.lower() in NA_VALUES:
            raise DataError(f"{frame.locate(row)}: no id in {column!r}; give it one, or remove the row")
        if (first := rows.setdefault(name, row)) != row:
            raise DataError(
                f"{frame.locate(row)}: id {name!r} was in {frame.get_place(first)} already; remove one of the rows, "
                f"add a column 'time' if rows are samples, or give --group-column {quote(column)}"
            )


def build_from_lists(assignment: Assignment, columns: list[int]) -> SeriesSet:
    """Return a series per row, whose channels are columns of lists of samples.

    Raises:
        DataError: a cell holds no list of numbers
    """
    frame = assignment.frame
    assignment.channels = columns
    if assignment.time is not None:
        assignment.leave_out([assignment.time], "a time, but each row is a series")
        assignment.time = None
    assignment.leave_out([i for i in assignment.remaining if i not in columns], "without a role")
    cells = zip(*(frame.columns[i].to_pylist() for i in columns), strict=True)
    series = [_parse_list_row(row, frame.locate(number)) for number, row in enumerate(cells)]
    note = assignment.describe(f"each row is a series, channels {assignment.list_names(columns)}")
    channels = tuple(frame.names[i] for i in columns) if len(columns) > 1 else ()
    return build_series_set(assignment, pad_series(series, str(frame.path)), channels, note)


def _parse_list_row(row: tuple[Any, ...], location: str) -> Samples:
    """Return the samples [C, T] of one row; a single column may hold a list per channel."""
    lists: Any = list(row)
    if any(samples is None for samples in lists):
        raise DataError(f"{location}: no samples; remove the row")
    if len(lists) == 1 and lists[0] and isinstance(lists[0][0], list):
        lists = lists[0]
    try:
        rows = [np.array([np.nan if v is None else v for v in samples], np.float64)[None] for samples in lists]
    except (TypeError, ValueError):
        raise DataError(f"{location}: expected lists of numbers; convert them, or remove the column") from None
    return pad_series(rows, location)[:, 0]
