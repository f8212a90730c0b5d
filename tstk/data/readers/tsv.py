"""Reader of `.tsv` and `.txt`, the older format of the UCR archive: one series per line, the label first, no header.

Cells are separated by tabs, commas or blanks, whichever the first line uses.
"""

from __future__ import annotations

from pathlib import Path

from tstk.data.containers import Raw, lines, numbers, pad, plain
from tstk.errors import DataError


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The univariate series of one file, as part "train".

    Args:
        path: a file that ends in .tsv or .txt
        label: refused, the label has its fixed place

    Raises:
        DataError: naming the line that cannot be read
    """
    if label is not None:
        raise DataError(f"{path}: --label {label} has no meaning here; the label is the first cell of each line")
    series, labels = [], []
    text = lines(path)
    head = next(line for line in text if line.strip())
    mark = next((mark for mark in "\t," if mark in head), None)
    for at, line in enumerate(text, 1):
        if not line.strip():
            continue
        first, *cells = line.split(mark)
        if not cells:
            raise DataError(f"{path}, line {at}: a label and no sample")
        series.append(numbers(cells, f"{path}, line {at}")[None])
        labels.append(plain(first))
    return {"train": Raw(pad(series, str(path)), str(path), labels)}
