"""Reader of `.parquet`: columns as in a `.csv` file, or columns that hold a list of samples in each row.

Of lists, each column is a channel and each row a series. Takes pyarrow: `pip install 'tstk-core[parquet]'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tstk.data.containers import Floats, Raw, Table, pad, plain
from tstk.data.readers.csv import GROUPS, LABEL, rows_of
from tstk.errors import DataError, did_you_mean
from tstk.plugins.distribution import install_command


def read(path: Path, *, label: str | None = None) -> dict[str, Raw] | Table:
    """The series of a file, as part "train", or a table.

    Args:
        path: a file that ends in .parquet
        label: the column that holds the labels, if it is not called label, class, target or y

    Raises:
        DataError: pyarrow is not installed, the file is damaged, or a cell is not a number
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading it takes pyarrow: {install_command('parquet')}") from error
    try:
        columns = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path}: empty, cut short or not a parquet file; write or fetch it again") from None
    header, types = columns.column_names, [field.type for field in columns.schema]
    if nested := [i for i, kind in enumerate(types) if pyarrow.types.is_nested(kind)]:
        return {"train": _lists(path, columns, [header[i] for i in nested], label)}
    cells = [map(_text, column.to_pylist()) for column in columns.columns]
    rows = [(f"row {at}", list(row)) for at, row in enumerate(zip(*cells, strict=True), 1)]
    return rows_of(path, header, rows, label)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _lists(path: Path, columns: Any, channels: list[str], label: str | None) -> Raw:
    if label is not None and label not in columns.column_names:
        raise DataError(f"{path}: no column called {label!r}.{did_you_mean(label, columns.column_names)}")
    low = {name.lower(): name for name in columns.column_names if name not in channels}
    y = label or next((low[name] for name in LABEL if name in low), None)
    group = next((low[name] for name in GROUPS if name in low and low[name] != y), None)
    series = [
        _series(row, channels, f"{path}, row {at}") for at, row in enumerate(columns.select(channels).to_pylist(), 1)
    ]
    return Raw(
        x=pad(series, str(path)),
        source=str(path),
        y=None if y is None else [plain(_text(one)) for one in columns[y].to_pylist()],
        groups=None if group is None else [plain(_text(one)) for one in columns[group].to_pylist()],
        channels=tuple(channels) if len(channels) > 1 else (),
    )


def _series(row: dict[str, Any], channels: list[str], where: str) -> Floats:
    """[C, T] of one row; a single column may hold a list per channel."""
    held = [row[name] for name in channels]
    if any(one is None for one in held):
        raise DataError(f"{where}: no samples; remove the row")
    if len(held) == 1 and held[0] and isinstance(held[0][0], list):
        held = held[0]
    try:
        rows = [np.array([np.nan if v is None else v for v in one], np.float32)[None] for one in held]
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected lists of numbers; make them so, or remove the column") from None
    return pad(rows, where)[:, 0]
