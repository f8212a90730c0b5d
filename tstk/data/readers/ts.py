"""Reader of `.ts`, the format of the UCR and UEA archives: a header of @-lines, then one series per line.

A series is its channels separated by colons, the label last; samples are separated by commas, `?` is a missing one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tstk.data.containers import Floats, Raw, lines, numbers, pad
from tstk.errors import DataError


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The series of one file, as part "train".

    Args:
        path: a file that ends in .ts
        label: refused, the label has its fixed place

    Raises:
        DataError: naming the line that cannot be read
    """
    if label is not None:
        raise DataError(f"{path}: --label {label} has no meaning in a .ts file, whose label follows the last colon")
    text = lines(path)
    header, first = _header(text, path)
    labelled = _labelled(header, path)
    series, labels = [], []
    for at, line in enumerate(text[first:], first + 1):
        if not line.strip():
            continue
        pieces = line.split(":")
        if labelled:
            labels.append(pieces.pop().strip())
            if not pieces:
                raise DataError(f"{path}, line {at}: no ':' before the label")
        series.append(_channels(pieces, f"{path}, line {at}"))
    if not series:
        raise DataError(f"{path}: no line after @data, so there is no series")
    return {"train": Raw(pad(series, str(path)), str(path), labels if labelled else None)}


def _header(text: list[str], path: Path) -> tuple[dict[str, list[str]], int]:
    """The @-lines in lower case with their words, and how many lines come before the data."""
    header: dict[str, list[str]] = {}
    for at, line in enumerate(text):
        if line.startswith("@"):
            key, *words = line.split()
            if key.lower() == "@data":
                return header, at + 1
            header[key.lower()] = [word.lower() for word in words]
    raise DataError(f"{path}: no @data line, so this is not a .ts file, or it is cut short")


def _labelled(header: dict[str, list[str]], path: Path) -> bool:
    if header.get("@timestamps", ["false"])[:1] == ["true"]:
        raise DataError(f"{path}: @timeStamps true is not supported; write the samples alone")
    if header.get("@targetlabel", ["false"])[:1] == ["true"]:
        raise DataError(f"{path}: @targetLabel true (regression) is not supported")
    if "@classlabel" not in header:
        raise DataError(f"{path}: no @classLabel line; write '@classLabel false', or 'true' and the classes")
    return header["@classlabel"][:1] == ["true"]


def _channels(pieces: list[str], where: str) -> Floats:
    """[C, T] of one line; a channel shorter than its neighbours is padded with NaN."""
    rows = [numbers(piece.split(","), where) for piece in pieces]
    longest = max(map(len, rows))
    if any(len(row) != longest for row in rows):
        rows = [np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows]
    return np.stack(rows)
