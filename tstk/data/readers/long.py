"""Build series from long tables: one row per series and time, with columns of ids, channels, labels and groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import NA_VALUES, SeriesSet, pad_series
from tstk.data.readers.assignment import CERTAIN_LABEL_NAMES, Assignment
from tstk.data.readers.frame import Frame
from tstk.data.readers.series_set import build_series_set
from tstk.data.segmentation import encode_sample_labels, merge_sample_labels
from tstk.data.times import Times
from tstk.errors import DataError


def is_long(assignment: Assignment, runs: dict[str, list[int]], model_channels: tuple[str, ...] = ()) -> bool:
    """Return whether the rows of an id are the samples of one series: all ids repeat, or some do and there are times.

    Without ids, the rows of a group are one series if there are times; the group is then also the id.

    Args:
        assignment: the roles
        runs: numbered columns of samples, as `find_runs` returns them
        model_channels: channels of the model that the series are for, as many as the columns of a long table

    Raises:
        DataError: there are no ids and no model, and numbered columns may be samples of a row or channels over time
    """
    frame, has_times = assignment.frame, assignment.time is not None
    is_wide = bool(runs) and (assignment.label is not None or bool(assignment.targets))
    if assignment.id is None:
        group = assignment.group
        if group is None or not has_times or len(set(frame.get_text(group))) in (1, frame.num_rows):
            return False
        if runs and model_channels:
            is_wide = len(model_channels) < sum(map(len, runs.values()))
        elif runs and "time" not in assignment.by_user:
            _question_rows(assignment, group, runs)
        if is_wide and "time" not in assignment.by_user:
            return False
        assignment.id = group
        return True
    counts = Counter(frame.get_text(assignment.id)).values()
    if max(counts) == 1:
        return False
    return has_times or (min(counts) > 1 and not is_wide)


def _question_rows(assignment: Assignment, group: int, runs: dict[str, list[int]]) -> None:
    """Refuse rows that may be the samples of one series per group: times ascend within each, and labels stay the same.

    Raises:
        DataError: they may be, as well as a series each
    """
    frame, time = assignment.frame, assignment.time
    assert time is not None
    _, first, names = np.unique(np.array(frame.get_text(group)), return_index=True, return_inverse=True)
    labels = [i for i in (assignment.label, *assignment.targets) if i is not None]
    if any(_find_change(frame, i, first[names]) is not None for i in labels):
        return
    try:
        values = frame.get_times(time, assignment.clock).values
    except DataError:
        return
    order = np.argsort(names, kind="stable")
    if not (np.diff(values[order]).astype(np.float64)[np.diff(names[order]) == 0] > 0).all():
        return
    run = next(iter(runs.values()))
    column, option = frame.names[time], quote(frame.names[time])
    raise DataError(
        f"{frame.path}: {frame.names[run[0]]} to {frame.names[run[-1]]} may be the samples of a row, or channels at "
        f"the times in {column!r}, which ascend within each {frame.names[group]!r}; --drop-columns {option} makes each "
        f"row a series, --id-column {quote(frame.names[group])} the rows of each {frame.names[group]!r}"
    )


def build_long(
    assignment: Assignment, label_per_sample: bool = False, model_channels: tuple[str, ...] = ()
) -> SeriesSet:
    """Return the series of a long table, in the order in which their ids first occur.

    Args:
        assignment: the roles
        label_per_sample: labels may change within a series, and classify its samples
        model_channels: channels of the model that the series are for; if all are columns, these are the samples

    Raises:
        DataError: a cell is not a number, times repeat or run backwards, or a label changes within a series
    """
    frame = assignment.frame
    assert assignment.id is not None
    ids = frame.get_text(assignment.id)
    for row, name in enumerate(ids):
        if name.lower() in NA_VALUES:
            raise DataError(f"{frame.locate(row)}: no id; give it one, or remove the row")
    first_rows: dict[str, int] = {}
    first = np.array([first_rows.setdefault(name, row) for row, name in enumerate(ids)])
    if not label_per_sample:
        _release_label(assignment, first)
    for role in ("group",) if label_per_sample else ("label", "group"):
        if (index := getattr(assignment, role)) is not None and index != assignment.id:
            _check_constant(frame, index, first, ids, role)
    for index in assignment.targets:
        _check_constant(frame, index, first, ids, "target")
    times = assignment.get_times()
    if model_channels and set(model_channels) <= set(frame.names) and "channels" not in assignment.by_user:
        assignment.channels = [frame.names.index(name) for name in model_channels]
        assignment.leave_out(assignment.remaining, "not a channel of the run")
    elif "channels" not in assignment.by_user:
        constant = [i for i in assignment.remaining if _find_change(frame, i, first) is None]
        if len(first_rows) > 1 and len(constant) < len(assignment.remaining):
            reason = "the same within each id; --channel-columns or --target-columns takes it"
            assignment.leave_out(constant, reason)
        if not assignment.remaining:
            raise DataError(f"{frame.path}: ids and times, but no column of samples; add one")
        assignment.set_channels(assignment.remaining, "a channel")
    order = np.argsort(first, kind="stable")
    series_rows = np.split(order, np.flatnonzero(np.diff(first[order])) + 1)
    note = assignment.describe(_describe_channels(assignment), times)
    if times is not None:
        _check_order(assignment, times, ids, series_rows)
    samples = frame.get_samples(assignment.channels)
    x = pad_series([samples[rows].T for rows in series_rows], str(frame.path))
    channels = tuple(frame.names[i] for i in assignment.channels)
    series_times = None if times is None else [times[rows] for rows in series_rows]
    label, rows = assignment.label, list(first_rows.values())
    if not label_per_sample or label is None:
        return build_series_set(assignment, x, channels, note, rows, series_times, series_rows)
    labels, classes = encode_sample_labels(frame.get_text(label))
    assignment.label = None
    series_set = build_series_set(assignment, x, channels, note, rows, series_times, series_rows)
    padded, _ = merge_sample_labels([(labels[rows], classes) for rows in series_rows], x.shape[2])
    return replace(series_set, sample_labels=padded, classes=classes)


def _describe_channels(assignment: Assignment) -> str:
    order = "" if assignment.time is not None else ", in the order of the file"
    return f"the rows of an id are one series{order}, channels {assignment.list_names(assignment.channels)}"


def _release_label(assignment: Assignment, first: NDArray[np.int64]) -> None:
    """Take a column such as `y` back from the labels if it is the only channel or changes within a series."""
    label, frame = assignment.label, assignment.frame
    if label is None or "label" in assignment.by_user or frame.lower_names[label] in CERTAIN_LABEL_NAMES:
        return
    is_only_channel = not assignment.remaining and "channels" not in assignment.by_user
    if is_only_channel or _find_change(frame, label, first) is not None:
        assignment.label = None


def _find_change(frame: Frame, index: int, first: NDArray[np.int64]) -> int | None:
    """Return the first row whose cell differs from that of the first row of its id, or None."""
    numbers = frame.get_numbers(index)
    cells: NDArray[Any] = np.array(frame.get_text(index), object) if numbers is None else numbers
    changes = cells != cells[first]
    if numbers is not None:
        changes &= ~(np.isnan(numbers) & np.isnan(numbers[first]))
    return int(changes.argmax()) if changes.any() else None


def _check_constant(frame: Frame, index: int, first: NDArray[np.int64], ids: list[str], kind: str) -> None:
    """Refuse a label, group or target that changes within a series."""
    cells = np.array(frame.get_text(index), object)
    changes = cells != cells[first]
    if changes.any():
        row = int(changes.argmax())
        place = frame.get_place(int(first[row]))
        name = quote(frame.names[index])
        raise DataError(
            f"{frame.locate(row)}: {kind} {cells[row]!r} of id {ids[row]!r}, which has {cells[first[row]]!r} in "
            f"{place}; a series has one {kind}: give its rows the same, or --drop-columns {name}"
            + ("; --task segmentation takes a label per row, in training" if kind == "label" else "")
        )


def _check_order(assignment: Assignment, times: Times, ids: list[str], series_rows: list[NDArray[np.int64]]) -> None:
    """Refuse times that repeat or run backwards within a series."""
    frame, column = assignment.frame, assignment.time
    assert column is not None
    for rows in series_rows:
        values = times.values[rows]
        steps = np.diff(values).astype(np.float64)
        if (bad := np.flatnonzero(~(steps > 0))).size:
            previous, row = rows[bad[0]], rows[bad[0] + 1]
            cells = frame.get_text(column)
            if cells[previous] == cells[row] or steps[bad[0]] == 0:
                fault, remedy = "twice", "remove one of the rows"
            else:
                fault = f"after {cells[previous]} in {frame.get_place(int(previous))}"
                remedy = "sort the rows of each id by time"
            raise DataError(f"{frame.locate(int(row))}: id {ids[row]!r} has time {cells[row]} {fault}; {remedy}")
