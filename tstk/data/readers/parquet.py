"""Reader of `.parquet`: columns as in a `.csv` file, or columns that hold a list of samples in each row.

Each column of lists is a channel, and each row a series. The fields of a struct are columns of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tstk.config.memory import limit_allocations
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
    import pyarrow.parquet  # noqa: F401  # before the limit, which its libraries may exceed

    try:
        with limit_allocations():  # the metadata may claim fewer values than the pages hold
            table = _read_table(path)
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path}: larger than memory; save it as arrays (.npz or .npy), or in several parts") from None
    except Exception:  # pyarrow raises many kinds of errors for a damaged file
        raise DataError(f"{path}: empty, cut short or not a parquet file; write or fetch it again") from None

    def locate(row: int) -> str:
        return f"{path}, row {row + 1}" if row >= 0 else str(path)

    return interpret(Frame(path, table.column_names, table.columns, locate), roles)


def _read_table(path: Path) -> Any:
    """Return the table of a file, which is what its metadata claim.

    Raises:
        DataError: it is larger than memory, or holds more values than its metadata claim
    """
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        num_values = _check_size(path, file)
        names = [field.name for field in file.schema_arrow if _is_text(field.type)]
    # a text that repeats is stored once, and stays so in memory; checksums are compared if the file has them
    with parquet.ParquetFile(path, read_dictionary=names, page_checksum_verification=True) as file:
        table = file.read()
    while any(_is_struct(type_) for type_ in table.schema.types):
        table = table.flatten()
    actual = sum(_count_values(chunk) for column in table.columns for chunk in column.chunks)
    if actual > num_values:
        raise DataError(
            f"{path}: holds {actual:,} values, and its metadata claim {num_values:,}; write or fetch it again"
        )
    table.validate(full=True)
    _decode_text(table)
    return table


def _count_values(array: Any) -> int:
    """Return the number of values of an array, of the lists in it if it is one of lists."""
    from pyarrow import types

    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        array = array.flatten()
    return len(array)


def _is_text(type_: Any) -> bool:
    from pyarrow import types

    return any(
        check(type_) for check in (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    )


def _is_struct(type_: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(type_))


def _check_size(path: Path, file: Any) -> int:
    """Check what the file says of its size, before its columns are read: they may be compressed a thousandfold.

    Returns:
        the number of values that it claims to hold
    """
    metadata, num_values, num_bytes = file.metadata, 0, 0
    for i in range(metadata.num_row_groups):
        next(file.iter_batches(1, row_groups=[i]), None)  # fails in Python if it is damaged; `column` ends the process
        columns = [metadata.row_group(i).column(j) for j in range(metadata.num_columns)]
        num_values += sum(column.num_values for column in columns)
        num_bytes += sum(column.total_uncompressed_size for column in columns)
    widths = [max(getattr(type_, "list_size", 1), 1) for type_ in file.schema_arrow.types]
    # a list of fixed size takes memory even where it is missing
    num_values = max(num_values, metadata.num_rows * sum(widths))
    is_nested = any(type_.num_fields for type_ in file.schema_arrow.types)  # their samples become Python objects
    require_cell_memory(path, metadata.num_rows, (1 + is_nested) * num_values, max(num_bytes, 0))
    return num_values


def _decode_text(table: Any) -> None:
    """Fail if the text of a column is not in UTF-8."""
    from pyarrow import types

    for column in table.columns:
        if types.is_dictionary(column.type) or _is_text(column.type):
            for chunk in column.chunks:
                (chunk.dictionary if types.is_dictionary(column.type) else chunk).to_pylist()
