"""Reader of `.parquet`: columns as in a `.csv` file, or columns that hold a list of samples in each row.

Each column of lists is a channel, and each row a series. Takes pyarrow: `pip install 'tstk-core[parquet]'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tstk.data.containers import Samples, SeriesSet, Table, normalize_label, pad_series
from tstk.data.readers.csv import GROUP_COLUMNS, LABEL_COLUMNS, parse_rows
from tstk.errors import DataError, did_you_mean
from tstk.plugins.distribution import format_install_command


def read(path: Path, *, label_column: str | None = None) -> dict[str, SeriesSet] | Table:
    """Read the series of one file, as split "train", or a table.

    Args:
        path: a file that ends in .parquet
        label_column: the column that holds the labels, if it is not called label, class, target or y

    Raises:
        DataError: pyarrow is not installed, the file is damaged, or a cell is not a number
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading it takes pyarrow: {format_install_command('parquet')}") from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path}: empty, cut short or not a parquet file; write or fetch it again") from None
    if list_columns := [field.name for field in table.schema if pyarrow.types.is_nested(field.type)]:
        return {"train": _build_series_set(path, table, list_columns, label_column)}
    cells = [map(_to_text, column.to_pylist()) for column in table.columns]
    rows = [(f"row {number}", list(row)) for number, row in enumerate(zip(*cells, strict=True), 1)]
    return parse_rows(path, table.column_names, rows, label_column)


def _to_text(value: Any) -> str:
    return "" if value is None else str(value)


def _build_series_set(path: Path, table: Any, channels: list[str], label_column: str | None) -> SeriesSet:
    if label_column is not None and label_column not in table.column_names:
        raise DataError(f"{path}: no column called {label_column!r}.{did_you_mean(label_column, table.column_names)}")
    by_lower_name = {name.lower(): name for name in table.column_names if name not in channels}
    label = label_column or next((by_lower_name[name] for name in LABEL_COLUMNS if name in by_lower_name), None)
    group = next(
        (by_lower_name[name] for name in GROUP_COLUMNS if name in by_lower_name and by_lower_name[name] != label), None
    )
    series = [
        _parse_list_row(row, channels, f"{path}, row {number}")
        for number, row in enumerate(table.select(channels).to_pylist(), 1)
    ]
    return SeriesSet(
        x=pad_series(series, str(path)),
        source=str(path),
        y=None if label is None else [normalize_label(_to_text(value)) for value in table[label].to_pylist()],
        groups=None if group is None else [normalize_label(_to_text(value)) for value in table[group].to_pylist()],
        channels=tuple(channels) if len(channels) > 1 else (),
    )


def _parse_list_row(row: dict[str, Any], channels: list[str], location: str) -> Samples:
    """Return the samples [C, T] of one row; a single column may hold a list per channel."""
    lists = [row[name] for name in channels]
    if any(samples is None for samples in lists):
        raise DataError(f"{location}: no samples; remove the row")
    if len(lists) == 1 and lists[0] and isinstance(lists[0][0], list):
        lists = lists[0]
    try:
        rows = [np.array([np.nan if v is None else v for v in samples], np.float64)[None] for samples in lists]
    except (TypeError, ValueError):
        raise DataError(f"{location}: expected lists of numbers; convert them, or remove the column") from None
    return pad_series(rows, location)[:, 0]
