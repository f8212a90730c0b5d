"""Reader of `.csv` with a header line: series, one per row or spread over rows that share an id, or a table.

A column of ids that occur more than once makes it series of several rows; a column `date` (or a first column of dates)
a table of channels. Else each row is a series, and without labels every column is a sample of it.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import Raw, Table, lines, numbers, plain
from tstk.data.readers.long import is_long, long_series
from tstk.errors import DataError, did_you_mean

DATE = ("date", "datetime", "timestamp")
LABEL = ("label", "class", "target", "y")
NOTES = ("note", "notes", "text", "caption")
"""Columns that are no samples; `--extra` may bring what they say."""
GROUPS = ("group", "groups", "subject", "subjects")
ID = ("id", "series_id", "sample_id", "unique_id", "case_id", "item_id")


def read(path: Path, *, label: str | None = None) -> dict[str, Raw] | Table:
    """The series of a labelled file, as part "train", or a table.

    Args:
        path: a file that ends in .csv
        label: the column that holds the labels, if it is not called label, class, target or y

    Raises:
        DataError: there is no header, no column of this label, or a cell that is not a number
    """
    reader = csv.reader(lines(path))
    try:
        header, *rows = [(f"line {reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a line of CSV ({error}); mend or remove it") from None
    return rows_of(path, header[1], rows, label)


def rows_of(path: Path, header: list[str], rows: list[tuple[str, list[str]]], label: str | None) -> Any:
    """What rows of cells mean, wherever they were read.

    Args:
        path: the file, for messages
        header: names of the columns
        rows: the cells of each row, and where it stands ("line 2")
        label: the column that holds the labels, if it has an unusual name

    Raises:
        DataError: as for `read`
    """
    if not rows:
        raise DataError(f"{path}: no line after the header; add the rows of data")
    if all(_is_number(name) for name in header):
        raise DataError(f"{path}: the first line holds numbers; expected the names of the columns")
    if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise DataError(f"{path}, line 1: cells are separated by {mark!r}; expected commas, write it again with them")
    for at, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}, {at}: {len(row)} cells, the header has {len(header)}; mend or remove the row")
    low = [name.strip().lower() for name in header]
    if twice := [name for i, name in enumerate(low) if name in low[:i]]:
        raise DataError(f"{path}, line 1: two columns are called {twice[0]!r}; rename or remove one")
    ids = next((low.index(name) for name in ID if name in low), None)
    if ids is not None and is_long(path, low, rows, ids):
        column = _label(path, header, low, label)
        sure = label is not None or (column is not None and low[column] in ("label", "class"))
        return {"train": long_series(path, header, rows, ids, column, _group(low, column), sure)}
    if label is None and (date := _date(low, rows[0][1])) is not None:
        return _table(path, header, rows, date, ids)
    return {"train": _series(path, header, rows, _label(path, header, low, label), ids)}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_text(cell: str) -> bool:
    return not _is_number(cell) and cell.strip() not in ("", "?")


def _date(low: list[str], row: list[str]) -> int | None:
    """The column of dates, if there is one."""
    for name in DATE:
        if name in low:
            return low.index(name)
    try:
        datetime.fromisoformat(row[0])
    except ValueError:
        return None
    return None if _is_number(row[0]) else 0


def _label(path: Path, header: list[str], low: list[str], label: str | None) -> int | None:
    if label is not None:
        if label not in header:
            raise DataError(f"{path}: no column called {label!r}.{did_you_mean(label, header)}")
        return header.index(label)
    return next((low.index(name) for name in LABEL if name in low), None)


def _group(low: list[str], label: int | None) -> int | None:
    return next((i for i, name in enumerate(low) if name in GROUPS and i != label), None)


def _table(path: Path, header: list[str], rows: list[tuple[str, list[str]]], date: int, ids: int | None) -> Table:
    columns = [i for i in range(len(header)) if i not in (date, ids)]
    values = np.stack([numbers([row[i] for i in columns], f"{path}, {at}") for at, row in rows])
    dates: NDArray[Any] = np.array([row[date].strip() for _, row in rows])
    with suppress(ValueError):  # not ISO 8601: kept as written, nothing is computed from them
        dates = dates.astype("datetime64[s]")
    return Table(values, str(path), tuple(header[i] for i in columns), dates)


def _series(
    path: Path, header: list[str], rows: list[tuple[str, list[str]]], label: int | None, ids: int | None
) -> Raw:
    group = _group([name.strip().lower() for name in header], label)
    noted = {i for i, name in enumerate(header) if name.strip().lower() in NOTES}
    columns = [i for i in range(len(header)) if i not in (label, group, ids, *noted)]
    if label is None and (text := [i for i in columns if all(_is_text(row[i]) for _, row in rows)]):
        name = header[text[0]]
        raise DataError(f"{path}: the column {name!r} holds text; if these are the labels, give --label {name}")
    x = np.stack([numbers([row[i] for i in columns], f"{path}, {at}") for at, row in rows])
    groups = None if group is None else [plain(row[group]) for _, row in rows]
    labels = None if label is None else [plain(row[label]) for _, row in rows]
    return Raw(x[:, None], str(path), labels, groups)
