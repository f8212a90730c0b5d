"""Reader of `.csv` with a header line: series, one per row or spread over rows that share an id, or a table.

`interpret.py` decides which, from the names of the columns and from their contents.
"""

from __future__ import annotations

import csv
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table, is_number, read_text
from tstk.data.memory import require_memory
from tstk.data.readers.frame import Frame
from tstk.data.readers.interpret import interpret
from tstk.errors import DataError


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet] | Table:
    """Read the series of one file, as split "train", or a table.

    Args:
        path: a file that ends in .csv
        roles: of columns, where names do not tell

    Raises:
        DataError: there is no header or no such label column, or a cell is not a number
    """
    text = read_text(path)
    header = next(iter(_iter_rows(text, path)))[1]
    numbers = [float(name) for name in header if is_number(name)]
    is_ascending = all(first < second for first, second in pairwise(numbers))  # such as 0, 0.02, 0.04, times of samples
    if len(numbers) == len(header) or (2 * len(numbers) > len(header) and not is_ascending):
        raise DataError(f"{path}: the first line holds numbers; expected the names of the columns")
    if len(header) == 1 and (separator := next((char for char in ";\t|" if char in header[0]), None)):
        raise DataError(f"{path}, line 1: cells are separated by {separator!r}; expected commas, save it with them")
    num_rows, num_cells = max(text.count("\n"), text.count("\r")), text.count(",")
    require_cell_memory(path, num_rows, num_cells + num_rows, 3 * len(text))
    columns = _parse_columns(text, path, len(header))
    return interpret(Frame(path, header, columns, lambda row: _locate(text, path, row)), roles)


def require_cell_memory(path: Path, num_rows: int, num_cells: int, num_bytes: int) -> None:
    """Check that the cells of a file fit into memory, as text and as numbers.

    Args:
        path: the file, for messages
        num_rows: of the file
        num_cells: of the file
        num_bytes: of the text of all cells

    Raises:
        DataError: they take more than is available
    """
    require_memory(
        num_bytes + 32 * num_cells + 64 * num_rows,  # its offsets, float64, and float32 twice; the text of a label
        f"{path}: {num_rows:,} rows and {num_cells:,} cells",
        "save it as arrays (.npz or .npy), which take less, or in several parts",
    )


def _parse_columns(text: str, path: Path, num_columns: int) -> list[Any]:
    """Return the columns of cells after the header, as text."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    data = text.strip("\r\n").encode()
    names = [str(i) for i in range(num_columns)]
    try:
        table = arrow_csv.read_csv(
            pyarrow.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=names, block_size=min(max(len(data) + 1, 2**20), 2**31 - 1)
            ),
            # a line of a single column may be empty because its cell is missing
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=num_columns > 1),
            convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string())),
        )
    except pyarrow.ArrowInvalid as error:
        raise _find_fault(text, path, num_columns, str(error)) from None
    return [column.slice(1) for column in table.columns]


def _iter_rows(text: str, path: Path) -> Any:
    """Iterate over the number of the line and the cells of each row, the header included."""
    lines = text.rstrip("\r\n").splitlines(keepends=True)
    reader = csv.reader(lines)
    num_columns = 0
    try:
        for row in reader:
            if row or num_columns == 1:
                num_columns = num_columns or len(row)
                yield reader.line_num, row or [""]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a line of CSV ({error}); fix or remove it") from None


def _locate(text: str, path: Path, row: int) -> str:
    line_number, _ = next(islice(_iter_rows(text, path), row + 1, None))
    return f"{path}, line {line_number}"


def _find_fault(text: str, path: Path, num_columns: int, reason: str) -> DataError:
    """Return the error that names the first line with another number of cells than the header."""
    for line_number, row in _iter_rows(text, path):
        if len(row) != num_columns:
            return DataError(
                f"{path}, line {line_number}: {len(row)} cells, the header has {num_columns}; fix or remove the row"
            )
    return DataError(f"{path}: not a file of CSV ({reason}); fix it")
