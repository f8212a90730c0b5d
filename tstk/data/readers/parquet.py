"""Reader of `.parquet`: columns as in a `.csv` file, or columns that hold a list of samples in each row.

Each column of lists is a channel, and each row a series. The fields of a struct are columns of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table
from tstk.data.readers.csv import require_cell_memory
from tstk.data.readers.frame import Frame
from tstk.data.readers.interpret import interpret
from tstk.errors import DataError


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet] | Table:
    """Read the series of one file, as split "train", or a table.

    Args:
        path: a file that ends in .parquet
        roles: of columns, where names do not tell

    Raises:
        DataError: the file is damaged, or a cell is not a number
    """
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_size(path, file)
            names = [field.name for field in file.schema_arrow if _is_text(field.type)]
        # a text that repeats is stored once, and stays so in memory; checksums are compared if the file has them
        with parquet.ParquetFile(path, read_dictionary=names, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
        while any(_is_struct(type_) for type_ in table.schema.types):
            table = table.flatten()
        _decode_text(table)
    except DataError:
        raise
    except Exception:  # pyarrow raises many kinds of errors for a damaged file
        raise DataError(f"{path}: empty, cut short or not a parquet file; write or fetch it again") from None

    def locate(row: int) -> str:
        return f"{path}, row {row + 1}" if row >= 0 else str(path)

    return interpret(Frame(path, table.column_names, table.columns, locate), roles)


def _is_text(type_: Any) -> bool:
    from pyarrow import types

    return any(
        check(type_) for check in (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    )


def _is_struct(type_: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(type_))


def _check_size(path: Path, file: Any) -> None:
    """Check what the file says of its size, before its columns are read: they may be compressed a thousandfold."""
    metadata, num_values, num_bytes = file.metadata, 0, 0
    for i in range(metadata.num_row_groups):
        next(file.iter_batches(1, row_groups=[i]), None)  # fails in Python if it is damaged; `column` ends the process
        columns = [metadata.row_group(i).column(j) for j in range(metadata.num_columns)]
        num_values += sum(column.num_values for column in columns)
        num_bytes += sum(column.total_uncompressed_size for column in columns)
    widths = [max(getattr(type_, "list_size", 1), 1) for type_ in file.schema_arrow.types]
    # a list of fixed size takes memory even where it is missing
    num_cells = max(num_values, metadata.num_rows * sum(widths))
    is_nested = any(type_.num_fields for type_ in file.schema_arrow.types)  # their samples become Python objects
    require_cell_memory(path, metadata.num_rows, (1 + is_nested) * num_cells, max(num_bytes, 0))


def _decode_text(table: Any) -> None:
    """Fail if the text of a column is not in UTF-8."""
    from pyarrow import types

    for column in table.columns:
        if types.is_dictionary(column.type) or _is_text(column.type):
            for chunk in column.chunks:
                (chunk.dictionary if types.is_dictionary(column.type) else chunk).to_pylist()
