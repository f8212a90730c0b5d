"""Checks of the data frames of pandas that estimators take: scikit-learn sees their values alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tstk.core.frames import is_pandas
from tstk.data.frames import is_temporal
from tstk.errors import DataNoteWarning, warn_user

_NUMBERED = re.compile(r"\D*(\d+(?:\.\d+)?)")


def is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN, or NA of pandas, which is not even a truth value when compared."""
    return label is None or not isinstance(label == label, bool | np.bool_) or bool(label != label)


def check_columns(frame: Any, remedy: str, *, warn: bool = False) -> None:
    """Raise ValueError unless all columns hold numbers.

    Args:
        frame: of pandas, with one level of columns
        remedy: what to do with a column of names or times instead
        warn: warn of numbered columns, which are the samples of a row, that are not in the order of their numbers
    """
    for i, name in enumerate(frame.columns):
        column = frame.iloc[:, i]
        if column.dtype.kind in "biuf":
            continue
        if column.dtype.kind in "mM":
            raise ValueError(f"X: column {name!r} holds times; {remedy}, or leave it out")
        try:
            np.asarray(column.array, dtype=np.float64)
        except (TypeError, ValueError):
            cell = next((cell for cell in column if isinstance(cell, str)), column.iloc[0])
            raise ValueError(
                f"X: could not convert column {name!r} to numbers, as it holds {cell!r}; {remedy}, or leave it out"
            ) from None
    matches = [_NUMBERED.fullmatch(str(name)) for name in frame.columns]
    numbers = [float(match[1]) for match in matches if match]
    steps = np.diff(numbers)
    if warn and len(numbers) == len(matches) and not ((steps > 0).all() or (steps < 0).all()):
        i = int((steps <= 0).argmax())
        first, second = frame.columns[i : i + 2]
        note = f"X: column {second!r} follows {first!r}; samples are used in the order of the columns, so sort these"
        warn_user(note, DataNoteWarning)


def check_alignment(X: Any, **values: Any) -> None:
    """Raise ValueError if values of series have their ids as index, in another order than the series of a long frame.

    Args:
        X: the series; only a data frame with an index of series and times has ids
        values: name of an argument -> one value for each series, of pandas or not
    """
    if not (is_pandas(X) and X.index.nlevels > 1):
        return
    ids = X.index.get_level_values(0).unique()
    for name, items in values.items():
        index: Any = items.index if hasattr(items, "iloc") else ()
        if len(index) == len(ids) and not index.equals(ids) and set(index) == set(ids):
            row = next(i for i in range(len(ids)) if index[i] != ids[i])
            raise ValueError(
                f"{name}: row {row} is that of {index[row]!r}, and series {row} of X is {ids[row]!r}; "
                f"{name}.loc[X.index.get_level_values(0).unique()] has the order of X"
            )


def split_panel(frame: Any) -> dict[Any, Any]:
    """Return name -> rows of each series of a data frame whose index has two levels, in the order of the first rows.

    Raises:
        ValueError: the index has more levels, a row has no series, or the times of a series are not in order
    """
    if frame.index.nlevels > 2:
        raise ValueError(f"X has {frame.index.nlevels} levels in its index; expected two, a series and a time")
    missing = frame.index.get_level_values(0).isna()
    if missing.any():
        raise ValueError(f"X, row {missing.argmax()}: no series in the index; give it one, or remove the row")
    groups = {name: series.droplevel(0) for name, series in frame.groupby(level=0, sort=False)}
    for name, series in groups.items():
        if is_temporal(series.index) or series.index.dtype.kind in "iuf":
            check_order(series.index, f"X, series {name!r}")
    return groups


def check_order(times: Any, place: str) -> None:
    """Raise ValueError unless times increase from row to row.

    Args:
        times: index of pandas of one level
        place: of the series, for the message
    """
    if not (times.is_monotonic_increasing and times.is_unique):
        row = next(i for i in range(1, len(times)) if not times[i] > times[i - 1])
        raise ValueError(
            f"{place}, row {row}: {times[row]} follows {times[row - 1]}; sort the rows by time with sort_index(), and "
            "give each time once"
        )
