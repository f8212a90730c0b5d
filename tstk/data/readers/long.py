"""Long tables: a row per series and time, with a column of ids; the other columns are channels, labels and groups."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import Raw, numbers, pad, plain
from tstk.errors import DataError

TIME = ("time", "t", "step", "date", "datetime", "timestamp", "ds")

Rows = list[tuple[str, list[str]]]


def is_long(path: Path, low: list[str], rows: Rows, ids: int) -> bool:
    """Whether rows that share an id are the samples of one series: there are times, or no id stands alone.

    Args:
        path: the file, for messages
        low: names of the columns in lower case
        rows: where each row stands ("line 2"), and its cells
        ids: the column of ids

    Raises:
        DataError: an id occurs twice by mistake
    """
    found: dict[str, list[str]] = {}
    for at, row in rows:
        found.setdefault(row[ids].strip(), []).append(at)
    if all(len(places) == 1 for places in found.values()):
        return False
    if not set(low) & set(TIME) and any(len(places) == 1 for places in found.values()):
        name, (first, second, *_) = next(item for item in found.items() if len(item[1]) > 1)
        raise DataError(
            f"{path}, {second}: id {name!r} was in {first} already; remove one of the rows, "
            "or add a column 'time' if rows are samples"
        )
    return True


def long_series(
    path: Path, header: list[str], rows: Rows, ids: int, label: int | None, group: int | None, sure: bool
) -> Raw:
    """The series, in the order in which their ids first occur.

    Args:
        path: the file, for messages
        header: names of the columns
        rows: where each row stands ("line 2"), and its cells
        ids: the column of ids
        label: the column of labels, if there is one
        group: the column of groups, if there is one
        sure: nothing but labels can be in that column; else it is a channel where it changes within a series

    Raises:
        DataError: a cell is not a number, times repeat or run backwards, or a label changes within a series
    """
    low = [name.strip().lower() for name in header]
    time = next((low.index(name) for name in TIME if name in low), None)
    series: dict[str, Rows] = {}
    for at, row in rows:
        if not row[ids].strip():
            raise DataError(f"{path}, {at}: no id; give it one, or remove the row")
        series.setdefault(plain(row[ids]), []).append((at, row))
    if label is not None and not sure:
        alone = set(range(len(header))) <= {ids, label, time, group}
        if alone or any(len({row[label] for _, row in one}) > 1 for one in series.values()):
            label = None
    channels = [i for i in range(len(header)) if i not in (ids, label, time, group)]
    if not channels:
        raise DataError(f"{path}: ids and times, but no column of samples; add one")
    uneven = sum(not _even(path, name, one, time) for name, one in series.items()) if time is not None else 0
    return Raw(
        x=pad([_values(path, one, channels) for one in series.values()], str(path)),
        source=str(path),
        y=None if label is None else [_only(path, name, one, label, "label") for name, one in series.items()],
        groups=None if group is None else [_only(path, name, one, group, "group") for name, one in series.items()],
        channels=tuple(header[i].strip() for i in channels),
        told=f"{path.name}: the times of {uneven} series are uneven; samples are taken as they come" if uneven else "",
    )


def _values(path: Path, one: Rows, channels: list[int]) -> NDArray[np.float32]:
    """[C, T] of one series."""
    return np.stack([numbers([row[i] for i in channels], f"{path}, {at}") for at, row in one], 1)


def _only(path: Path, name: str, one: Rows, column: int, what: str) -> str:
    """What all rows of a series agree on."""
    (first, begin), *_ = one
    for at, row in one:
        if plain(row[column]) != plain(begin[column]):
            raise DataError(
                f"{path}, {at}: {what} {row[column].strip()!r} of id {name!r}, which has {begin[column].strip()!r} "
                f"in {first}; a series has one {what}, give its rows the same"
            )
    return plain(begin[column])


def _even(path: Path, name: str, one: Rows, time: int) -> bool:
    """Whether times ascend in equal steps.

    Raises:
        DataError: they repeat or run backwards, or are no times
    """
    times = np.array([_time(row[time], f"{path}, {at}") for at, row in one])
    steps = np.diff(times)
    if (bad := np.flatnonzero(steps <= 0)).size:
        at, row = one[bad[0] + 1]
        before, last = one[bad[0]]
        how = "twice" if steps[bad[0]] == 0 else f"after {last[time].strip()} in {before}"
        mend = "remove one of the rows" if steps[bad[0]] == 0 else "sort the rows of each id by time"
        raise DataError(f"{path}, {at}: id {name!r} has time {row[time].strip()} {how}; {mend}")
    return not steps.size or bool(np.allclose(steps, steps[0], rtol=1e-3))


def _time(cell: str, where: str) -> float:
    """A time as a number, of seconds if it is a date."""
    try:
        return float(cell)
    except ValueError:
        pass
    try:
        # a plain difference, free of the time zone of whoever reads
        return (datetime.fromisoformat(cell.strip()).replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()
    except ValueError:
        raise DataError(f"{where}: time {cell.strip()!r} is neither a number nor a date such as 2020-12-31") from None
