"""Reader of `.tsv` and `.txt`, the older format of the UCR archive: one series per line, the label first, no header.

Cells are separated by tabs, commas or blanks, as in the first line.
"""

from __future__ import annotations

from pathlib import Path

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, normalize_labels, pad_series, parse_floats, read_lines
from tstk.errors import DataError


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read the univariate series of one file, as split "train".

    Args:
        path: a file that ends in .tsv or .txt
        roles: rejected, as the label is always the first cell

    Raises:
        DataError: a line cannot be parsed; the message names it
    """
    roles.reject(path, "here; the label is the first cell of each line")
    series, labels = [], []
    lines = read_lines(path)
    first_line = next(line for line in lines if line.strip())
    separator = next((char for char in "\t," if char in first_line), None)
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        label, *cells = line.split(separator)
        if not cells:
            raise DataError(f"{path}, line {line_number}: a label but no samples; add them, or remove the line")
        series.append(parse_floats(cells, f"{path}, line {line_number}")[None])
        labels.append(label)
    return {"train": SeriesSet(pad_series(series, str(path)), str(path), normalize_labels(labels))}
