"""Text files: one series a line, its label first, then numbers; a missing one is written ?."""

from pathlib import Path

from tstk.data.containers import Raw, lines, numbers, pad
from tstk.errors import DataError


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The series of one file, by the part of the data set that they are; a file of one part may call it `train`.

    Args:
        path: a file with a suffix that `provides` names
        label: what the user said with --label: which column or array holds the labels

    Raises:
        DataError: the file cannot be read; the message names it
    """
    if label is not None:
        raise DataError(f"{path}: --label {label} has no meaning here; the label is the first cell of each line")
    series, labels = [], []
    for at, line in enumerate(lines(path), 1):
        first, *cells = line.split()
        series.append(numbers(cells, f"{path}, line {at}")[None])  # [C, T]; NaN where a sample is missing
        labels.append(first)
    return {"train": Raw(pad(series, str(path)), str(path), labels)}  # X [N, C, T], padded with NaN
