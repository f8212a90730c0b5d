"""Reader of `.parquet`: columns as in a `.csv` file, or columns that hold a list of samples in each row.

Each column of lists is a channel, and each row a series. Takes pyarrow: `pip install 'tstk-core[parquet]'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tstk.data.columns import ColumnRoles
from tstk.data.containers import Samples, SeriesSet, Table, normalize_labels, pad_series
from tstk.data.readers.csv import GROUP_COLUMNS, LABEL_COLUMNS, parse_rows, require_cell_memory
from tstk.errors import DataError, did_you_mean
from tstk.plugins.distribution import format_install_command


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet] | Table:
    """Read the series of one file, as split "train", or a table.

    Args:
        path: a file that ends in .parquet
        roles: of columns, where names do not tell

    Raises:
        DataError: pyarrow is not installed, the file is damaged, or a cell is not a number
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading it takes pyarrow: {format_install_command('parquet')}") from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_size(path, file)
            names = [field.name for field in file.schema_arrow if _is_text(field.type)]
        # a text that repeats is stored once, and stays so in memory; checksums are compared if the file has them
        with parquet.ParquetFile(path, read_dictionary=names, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
        columns = {name: _to_list(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    except DataError:
        raise
    except Exception:  # pyarrow raises many kinds of errors for a damaged file
        raise DataError(f"{path}: empty, cut short or not a parquet file; write or fetch it again") from None
    if len(columns) < table.num_columns:
        repeated = next(name for name in columns if table.column_names.count(name) > 1)
        raise DataError(f"{path}: two columns are called {repeated!r}; rename or remove one")
    if list_columns := [field.name for field in table.schema if pyarrow.types.is_nested(field.type)]:
        return {"train": _build_series_set(path, columns, list_columns, roles.label)}
    cells = [map(_to_text, column) for column in columns.values()]
    rows = [(f"row {number}", list(row)) for number, row in enumerate(zip(*cells, strict=True), 1)]
    return parse_rows(path, table.column_names, rows, roles)


def _is_text(type_: Any) -> bool:
    from pyarrow import types

    return any(
        check(type_) for check in (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    )


def _check_size(path: Path, file: Any) -> None:
    """Check what the file says of its size, before its columns are read: they may be compressed a thousandfold."""
    metadata, num_values = file.metadata, 0
    for i in range(metadata.num_row_groups):
        next(file.iter_batches(1, row_groups=[i]), None)  # fails in Python if it is damaged; `column` ends the process
        num_values += sum(metadata.row_group(i).column(j).num_values for j in range(metadata.num_columns))
    widths = [max(getattr(type_, "list_size", 1), 1) for type_ in file.schema_arrow.types]
    # a list of fixed size takes memory even where it is missing
    require_cell_memory(path, metadata.num_rows, max(num_values, metadata.num_rows * sum(widths)))


def _to_list(column: Any) -> list[Any]:
    """Return the values of a column; equal texts are one object."""
    values = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            words = chunk.dictionary.to_pylist()
            values += [None if i is None else words[i] for i in chunk.indices.to_pylist()]
        else:
            values += chunk.to_pylist()
    return values


def _to_text(value: Any) -> str:
    return "" if value is None else str(value)


def _build_series_set(
    path: Path, columns: dict[str, list[Any]], channels: list[str], label_column: str | None
) -> SeriesSet:
    if label_column is not None and label_column not in columns:
        raise DataError(f"{path}: no column called {label_column!r}.{did_you_mean(label_column, columns)}")
    by_lower_name = {name.lower(): name for name in columns if name not in channels}
    label = label_column or next((by_lower_name[name] for name in LABEL_COLUMNS if name in by_lower_name), None)
    group = next(
        (by_lower_name[name] for name in GROUP_COLUMNS if name in by_lower_name and by_lower_name[name] != label), None
    )
    series = [
        _parse_list_row(row, f"{path}, row {number}")
        for number, row in enumerate(zip(*(columns[name] for name in channels), strict=True), 1)
    ]
    return SeriesSet(
        x=pad_series(series, str(path)),
        source=str(path),
        y=None if label is None else normalize_labels(map(_to_text, columns[label])),
        groups=None if group is None else normalize_labels(map(_to_text, columns[group])),
        channels=tuple(channels) if len(channels) > 1 else (),
    )


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
