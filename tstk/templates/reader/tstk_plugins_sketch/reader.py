"""Reader of text files with one series per line: label, then samples; ? marks a missing sample."""

from pathlib import Path

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, pad_series, parse_floats, read_lines


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Return the series of one file by split; a file with a single split may call it `train`.

    Args:
        path: file with a suffix listed in `provides`
        roles: what the user said of the columns, such as --label-column

    Raises:
        DataError: the file cannot be read; the message contains its path
    """
    roles.reject(path, "here; the label is the first cell of each line")
    series, labels = [], []
    for number, line in enumerate(read_lines(path), 1):
        label, *cells = line.split()
        series.append(parse_floats(cells, f"{path}, line {number}")[None])  # [C, T]; NaN where a sample is missing
        labels.append(label)
    return {"train": SeriesSet(pad_series(series, str(path)), str(path), labels)}  # X [N, C, T], padded with NaN
