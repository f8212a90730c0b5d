"""Interpret the columns of a file as series, one per row or spread over rows that share an id, or as a table.

Rows that share an id are one series. Columns with a time for each row, or without labels and without numbered columns,
are a table of channels. Otherwise each row is a series.
"""

from __future__ import annotations

from shlex import quote

import numpy as np

from tstk.data.columns import NOTE_NAMES, ColumnRoles
from tstk.data.containers import SeriesSet, Table
from tstk.data.readers.assignment import CERTAIN_LABEL_NAMES, Assignment, assign_roles, find_runs
from tstk.data.readers.frame import Frame
from tstk.data.readers.long import build_long, is_long
from tstk.data.readers.series_set import build_from_lists, build_series_set
from tstk.data.segmentation import SampleLabels, encode_sample_labels
from tstk.data.times import Times
from tstk.errors import DataError


def interpret(frame: Frame, roles: ColumnRoles) -> dict[str, SeriesSet] | Table:
    """Return the series of a frame, as split "train", or a table.

    Args:
        frame: the columns
        roles: of columns, as the options give them

    Raises:
        DataError: a column has no role, or its cells do not fit its role; the message names column, place and remedy
    """
    assignment = assign_roles(frame, roles)
    try:
        return _interpret(assignment, roles)
    except DataError:
        if pivot := _propose_pivot_of_long(assign_roles(frame, roles)):  # as it was before it was changed
            raise DataError(f"{frame.path}: {pivot}") from None
        raise


def _interpret(assignment: Assignment, roles: ColumnRoles) -> dict[str, SeriesSet] | Table:
    frame = assignment.frame
    if roles.label_per_sample and assignment.label is None and "label" not in roles.optional:
        raise DataError(f"{frame.path}: no column of labels, which classify each row; --label-column NAME names it")
    if roles.is_recording:
        return _build_table(assignment, roles)
    if roles.label_per_sample:
        return {"train": build_long(assignment, True)} if is_long(assignment, {}) else _build_table(assignment, roles)
    _discard_doubtful_names(assignment, "label" in roles.optional)
    if lists := [i for i in assignment.channels or assignment.remaining if frame.is_nested(i)]:
        return {"train": build_from_lists(assignment, lists)}
    by_user = assignment.by_user
    runs = {} if "channels" in by_user else find_runs(assignment)
    if is_long(assignment, runs, roles.model_channels):
        return {"train": build_long(assignment, model_channels=roles.model_channels)}
    wide = by_user & {"label", "targets"} or (runs and (assignment.label is not None or roles.model_channels))
    if assignment.time is not None and "time" not in by_user and wide and runs:
        assignment.leave_out([assignment.time], "a time, but each row is a series")
        assignment.time = None
    has_roles = any(i is not None for i in (assignment.label, assignment.group, assignment.id)) or assignment.targets
    if assignment.time is not None or not (has_roles or runs or roles.model_channels):
        return _build_table(assignment, roles)
    return {"train": _build_wide(assignment, runs)}


def _propose_pivot_of_long(assignment: Assignment) -> str:
    """Return how to pivot rows that hold a channel each, whose name is a text beside the sample; "" if they do not.

    So it is if an id, or a group, repeats a time, but never with the same text.
    """
    frame, by = assignment.frame, assignment.id if assignment.id is not None else assignment.group
    if by is None or assignment.time is None:
        return ""
    keys = [i for i in (by, assignment.time, assignment.clock) if i is not None]
    rows = [frame.get_text(i) for i in keys]
    if len(set(zip(*rows, strict=True))) == frame.num_rows:
        return ""
    for i in range(len(frame.names)):
        if i in keys or frame.is_nested(i) or not frame.is_text(i):
            continue
        if len(set(zip(*rows, frame.get_text(i), strict=True))) == frame.num_rows:
            return _propose_pivot(assignment, keys, i)
    return ""


def _propose_pivot(assignment: Assignment, keys: list[int], column: int) -> str:
    """Return how to make a column of samples for each name in `column`; "" if not one other column has numbers."""
    frame = assignment.frame
    others = [i for i in (*assignment.remaining, *assignment.channels) if i not in keys and i != column]
    values = [i for i in others if not frame.is_nested(i) and not frame.is_text(i) and not frame.counts_rows(i)]
    if len(values) != 1:
        return ""
    roles = (*keys, assignment.id, assignment.group, assignment.label)
    index = list(dict.fromkeys(frame.names[i] for i in roles if i not in (None, column)))
    name, value = frame.names[column], frame.names[values[0]]
    return (
        f"if the names in {name!r} are channels, whose samples {value!r} holds one per row, make each a column, with "
        f"pandas: frame.pivot(index={index!r}, columns={name!r}, values={value!r}).reset_index()"
    )


def _discard_doubtful_names(assignment: Assignment, is_for_model: bool) -> None:
    """Take back the roles of columns whose names suggest it, but whose contents do not.

    Args:
        assignment: the roles
        is_for_model: a trained model has decided what labels are
    """
    frame = assignment.frame
    group, label = assignment.group, assignment.label
    is_number = group is not None and frame.get_numbers(group) is not None and not frame.is_integer(group)
    if is_number and "group" not in assignment.by_user:
        assignment.group = None  # such as `user`, a share of time
    if "label" in assignment.by_user or label is None or assignment.time is not None or is_for_model:
        return
    if (cells := frame.get_numbers(label)) is None:
        return
    numbers = np.unique(cells[~np.isnan(cells)])
    if (numbers != np.round(numbers)).any() and len(numbers) > max(frame.num_rows / 2, 2):
        name, option = frame.names[label], quote(frame.names[label])
        raise DataError(
            f"{frame.path}: the column {name!r} holds {len(numbers):,} numbers with decimals; "
            f"--target-columns {option} predicts them, --label-column {option} takes them as names of classes"
        )


def _build_table(assignment: Assignment, roles: ColumnRoles) -> Table:
    """Return a table over time."""
    frame, by_user = assignment.frame, assignment.by_user
    if by_user & {"label", "targets", "group"}:
        why = "here: this is a table over time, one row per time"
        if assignment.time is not None:
            why = (
                f"here: the dates in {frame.names[assignment.time]!r} make this a table to forecast, as no id repeats; "
                "--drop-columns leaves them out"
            )
        supported = ("id", "time", "channels", "drop", *["label"] * roles.label_per_sample)
        roles.reject(frame.path, why, supported)
    times = assignment.get_times()
    if times is not None and "id" not in by_user and not roles.is_recording:
        _question_panel(assignment, times)
    labels: SampleLabels | tuple[None, tuple[str, ...]] = (None, ())
    for role in ("label", "group", "id"):
        if (index := getattr(assignment, role)) is None:
            continue
        if role == "label" and roles.label_per_sample:
            labels = encode_sample_labels(frame.get_text(index))
            continue
        setattr(assignment, role, None)
        if role == "label" and frame.lower_names[index] not in CERTAIN_LABEL_NAMES and not frame.is_text(index):
            continue  # y, a measured value
        assignment.leave_out([index], f"a {role}, in a table over time")
    if "channels" not in by_user:
        assignment.set_channels(assignment.remaining, "a channel")
    channels = tuple(frame.names[i] for i in assignment.channels)
    order = "" if times or frame.is_for_model else "no times: rows are taken as evenly spaced"
    note = "; ".join(filter(None, (assignment.describe(times=times), order)))
    return Table(frame.get_samples(assignment.channels), str(frame.path), channels, times, note, *labels)


def _question_panel(assignment: Assignment, times: Times) -> None:
    """Refuse times that repeat or run backwards because the rows are those of several series, which a column names."""
    frame = assignment.frame
    if (np.diff(times.values).astype(np.float64) > 0).all():
        return
    for i in assignment.remaining:
        if not (frame.is_text(i) or frame.is_integer(i)):
            continue
        _, names = np.unique(np.array(frame.get_text(i)), return_inverse=True)
        order = np.argsort(names, kind="stable")
        is_same = np.diff(names[order]) == 0
        steps = np.diff(times.values[order]).astype(np.float64)
        if 1 < names.max() + 1 <= frame.num_rows / 2 and (steps[is_same] > 0).all():
            column, name, option = frame.names[assignment.time or 0], frame.names[i], quote(frame.names[i])
            pivot = _propose_pivot(assignment, [assignment.time or 0], i) if frame.is_text(i) else ""
            raise DataError(
                f"{frame.path}: the times in {column!r} repeat, but not within one {name!r}; --id-column {option} "
                f"makes the rows of each a series, --drop-columns {option} leaves it out" + (pivot and f"; {pivot}")
            )


def _build_wide(assignment: Assignment, runs: dict[str, list[int]]) -> SeriesSet:
    """Return a series per row, whose samples are columns."""
    frame = assignment.frame
    if "channels" not in assignment.by_user:
        in_runs = [i for run in runs.values() for i in run]
        _check_outsiders(assignment, runs, set(in_runs))
        if runs:
            assignment.channels = in_runs
        else:
            assignment.set_channels(assignment.remaining, "a sample")
    if len(runs) > 1:
        values = np.stack([frame.get_samples(run) for run in runs.values()], 1)
        channels = tuple(runs)
    else:
        values, channels = frame.get_samples(assignment.channels)[:, None], ()
    num_channels, length = values.shape[1:]
    samples = f"each row is a series of {length:,} samples, {assignment.list_names(assignment.channels)}"
    if num_channels > 1:
        samples = f"each row is a series of {num_channels} channels ({', '.join(channels)}) and {length:,} samples"
    if any(run != sorted(run) for run in runs.values()):
        samples += ", in the order of their numbers, which is not that of the columns"
    return build_series_set(assignment, values, channels, assignment.describe(samples))


def _check_outsiders(assignment: Assignment, runs: dict[str, list[int]], in_runs: set[int]) -> None:
    """Leave out columns beside numbered samples that count rows or hold notes, and question the others."""
    frame = assignment.frame
    outsiders = [i for i in assignment.remaining if i not in in_runs] if runs else []
    if not outsiders:
        return
    samples = " and ".join(f"{frame.names[run[0]]} to {frame.names[run[-1]]}" for run in runs.values())
    assignment.leave_out([i for i in outsiders if frame.counts_rows(i)], "it counts the rows")
    for i in outsiders:
        if i in assignment.left_out:
            continue
        if frame.is_text(i):
            if frame.lower_names[i] in NOTE_NAMES:
                assignment.leave_out([i], "text")
                continue
            raise assignment.question_text(i, "a sample")
        raise assignment.question_number(i, samples)
