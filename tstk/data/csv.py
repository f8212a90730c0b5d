"""Reader of `.csv` with a header line: labelled series, one per row, or a table of channels with a date column.

A column `date` (or a first column of dates) makes it a table; a label column makes it labelled series; without either,
every column is a sample of series that nobody labelled.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.raw import Raw, Table, lines, numbers, plain
from tstk.errors import DataError, did_you_mean

DATE = ("date", "datetime", "timestamp")
LABEL = ("label", "class", "target", "y")
NOTES = ("note", "notes", "text", "caption")
"""Columns that are no samples; `--extra` may bring what they say."""
GROUPS = ("group", "groups", "subject", "subjects")


def read(path: Path, *, label: str | None = None) -> dict[str, Raw] | Table:
    """The series of a labelled file, as part "train", or a table.

    Args:
        path: a file that ends in .csv
        label: the column that holds the labels, if it is not called label, class, target or y

    Raises:
        DataError: there is no header, no column of this label, or a cell that is not a number
    """
    header, *rows = csv.reader(lines(path))
    numbered = [(at, row) for at, row in enumerate(rows, 2) if row]
    if not numbered:
        raise DataError(f"{path}: no line after the header")
    if all(_is_number(name) for name in header):
        raise DataError(f"{path}: the first line holds numbers; expected the names of the columns")
    for at, row in numbered:
        if len(row) != len(header):
            raise DataError(f"{path}, line {at}: {len(row)} cells, the header has {len(header)}")
    low = [name.strip().lower() for name in header]
    if label is None and (date := _date(low, numbered[0][1])) is not None:
        return _table(path, header, numbered, date)
    return {"train": _series(path, header, numbered, _label(path, header, low, label))}


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


def _table(path: Path, header: list[str], rows: list[tuple[int, list[str]]], date: int) -> Table:
    values = np.stack([numbers(row[:date] + row[date + 1 :], f"{path}, line {at}") for at, row in rows])
    dates: NDArray[Any] = np.array([row[date].strip() for _, row in rows])
    with suppress(ValueError):  # not ISO 8601: kept as written, nothing is computed from them
        dates = dates.astype("datetime64[s]")
    return Table(values, str(path), tuple(header[:date] + header[date + 1 :]), dates)


def _series(path: Path, header: list[str], rows: list[tuple[int, list[str]]], label: int | None) -> Raw:
    group = next((i for i, name in enumerate(header) if name.strip().lower() in GROUPS and i != label), None)
    noted = {i for i, name in enumerate(header) if name.strip().lower() in NOTES}
    columns = [i for i in range(len(header)) if i not in (label, group, *noted)]
    if label is None and (text := [i for i in columns if all(_is_text(row[i]) for _, row in rows)]):
        name = header[text[0]]
        raise DataError(f"{path}: the column {name!r} holds text; if these are the labels, give --label {name}")
    x = np.stack([numbers([row[i] for i in columns], f"{path}, line {at}") for at, row in rows])
    groups = None if group is None else [plain(row[group]) for _, row in rows]
    labels = None if label is None else [plain(row[label]) for _, row in rows]
    return Raw(x[:, None], str(path), labels, groups)
