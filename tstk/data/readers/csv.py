"""Reader of `.csv` with a header line: series, one per row or spread over rows that share an id, or a table.

If ids repeat, the rows of an id are one series; if there is a column `date` (or the first column holds dates), the file
is a table of channels. Otherwise each row is a series, and each column except labels, groups and ids is a sample.
"""

from __future__ import annotations

import csv
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table, normalize_label, parse_floats, read_lines
from tstk.data.memory import CELL_BYTES, require_memory
from tstk.data.readers.long import is_long, parse_long_rows
from tstk.errors import DataError, did_you_mean

DATE_COLUMNS = ("date", "datetime", "timestamp")
LABEL_COLUMNS = ("label", "class", "target", "y")
NOTE_COLUMNS = ("note", "notes", "text", "caption")
"""Columns of text, which are not samples; `--conditioning` can supply their encodings."""
GROUP_COLUMNS = ("group", "groups", "subject", "subjects")
ID_COLUMNS = ("id", "series_id", "sample_id", "unique_id", "case_id", "item_id")


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet] | Table:
    """Read the series of one file, as split "train", or a table.

    Args:
        path: a file that ends in .csv
        roles: of columns, where names do not tell

    Raises:
        DataError: there is no header or no such label column, or a cell is not a number
    """
    lines = read_lines(path)
    require_cell_memory(path, len(lines), sum(line.count(",") for line in lines))
    reader = csv.reader(lines)
    try:
        header, *rows = [(f"line {reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a line of CSV ({error}); fix or remove it") from None
    return parse_rows(path, header[1], rows, roles)


def parse_rows(path: Path, header: list[str], rows: list[tuple[str, list[str]]], roles: ColumnRoles) -> Any:
    """Interpret the cells of a .csv or .parquet file as series or as a table.

    Args:
        path: the file, for messages
        header: names of the columns
        rows: the location ("line 2") and the cells of each row
        roles: of columns, where names do not tell

    Raises:
        DataError: as for `read`
    """
    roles.reject(path, "yet", ("label",))
    label_column = roles.label
    if not rows:
        raise DataError(f"{path}: no line after the header; add the rows of data")
    if all(_is_number(name) for name in header):
        raise DataError(f"{path}: the first line holds numbers; expected the names of the columns")
    if len(header) == 1 and (separator := next((char for char in ";\t|" if char in header[0]), None)):
        raise DataError(f"{path}, line 1: cells are separated by {separator!r}; expected commas, save it with them")
    for location, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}, {location}: {len(row)} cells, the header has {len(header)}; fix or remove the row"
            )
    lower_header = [name.strip().lower() for name in header]
    if repeated := [name for name, count in Counter(lower_header).items() if count > 1]:
        raise DataError(f"{path}, line 1: two columns are called {repeated[0]!r}; rename or remove one")
    id_index = next((lower_header.index(name) for name in ID_COLUMNS if name in lower_header), None)
    if id_index is not None and is_long(path, lower_header, rows, id_index):
        label_index = _find_label_index(path, header, lower_header, label_column)
        group_index = _find_group_index(lower_header, label_index)
        is_label_certain = label_column is not None or (
            label_index is not None and lower_header[label_index] in ("label", "class")
        )
        series_set = parse_long_rows(path, header, rows, id_index, label_index, group_index, is_label_certain)
        return {"train": series_set}
    date_index = _find_date_index(lower_header, rows[0][1])
    if date_index is not None and label_column is None:
        return _build_table(path, header, rows, date_index, id_index)
    if date_index is not None and not _is_number(rows[0][1][date_index]):
        raise DataError(
            f"{path}: --label-column {label_column} has no meaning here: the dates in {header[date_index]!r} "
            "make this a table to forecast"
        )
    label_index = _find_label_index(path, header, lower_header, label_column)
    return {"train": _build_series_set(path, header, rows, label_index, id_index)}


def require_cell_memory(path: Path, num_rows: int, num_cells: int) -> None:
    """Check that the cells of a file fit into memory as text.

    Raises:
        DataError: they take more than is available
    """
    require_memory(
        CELL_BYTES * num_cells + 4 * CELL_BYTES * num_rows,
        f"{path}: {num_rows:,} rows and {num_cells:,} cells",
        "save it as arrays (.npz or .npy), which take less, or in several parts",
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_text(cell: str) -> bool:
    return not _is_number(cell) and cell.strip() not in ("", "?")


def _find_date_index(lower_header: list[str], row: list[str]) -> int | None:
    """Return the index of the column of dates, or None."""
    for name in DATE_COLUMNS:
        if name in lower_header:
            return lower_header.index(name)
    try:
        datetime.fromisoformat(row[0])
    except ValueError:
        return None
    return None if _is_number(row[0]) else 0


def _find_label_index(path: Path, header: list[str], lower_header: list[str], label_column: str | None) -> int | None:
    if label_column is not None:
        if label_column not in header:
            raise DataError(f"{path}: no column called {label_column!r}.{did_you_mean(label_column, header)}")
        return header.index(label_column)
    return next((lower_header.index(name) for name in LABEL_COLUMNS if name in lower_header), None)


def _find_group_index(lower_header: list[str], label_index: int | None) -> int | None:
    return next((i for i, name in enumerate(lower_header) if name in GROUP_COLUMNS and i != label_index), None)


def _build_table(
    path: Path, header: list[str], rows: list[tuple[str, list[str]]], date_index: int, id_index: int | None
) -> Table:
    columns = [i for i in range(len(header)) if i not in (date_index, id_index)]
    values = np.stack([parse_floats([row[i] for i in columns], f"{path}, {location}") for location, row in rows])
    dates: NDArray[Any] = np.array([row[date_index].strip() for _, row in rows])
    with suppress(ValueError):  # not ISO 8601: keep the text, as nothing is computed from it
        dates = dates.astype("datetime64[s]")
    return Table(values, str(path), tuple(header[i] for i in columns), dates)


def _build_series_set(
    path: Path, header: list[str], rows: list[tuple[str, list[str]]], label_index: int | None, id_index: int | None
) -> SeriesSet:
    group = _find_group_index([name.strip().lower() for name in header], label_index)
    notes = {i for i, name in enumerate(header) if name.strip().lower() in NOTE_COLUMNS}
    columns = [i for i in range(len(header)) if i not in (label_index, group, id_index, *notes)]
    if label_index is None and (text_columns := [i for i in columns if all(_is_text(row[i]) for _, row in rows)]):
        name = header[text_columns[0]]
        raise DataError(f"{path}: the column {name!r} holds text; if these are the labels, give --label-column {name}")
    x = np.stack([parse_floats([row[i] for i in columns], f"{path}, {location}") for location, row in rows])
    groups = None if group is None else [normalize_label(row[group]) for _, row in rows]
    labels = None if label_index is None else [normalize_label(row[label_index]) for _, row in rows]
    ids = None if id_index is None else [row[id_index].strip() for _, row in rows]
    return SeriesSet(x[:, None], str(path), labels, groups, ids=ids)
