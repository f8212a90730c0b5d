"""Reader of `.ts`, the format of the UCR and UEA archives: a header of @-lines, then one series per line.

A series is its channels separated by colons, the label last; samples are separated by commas, `?` marks a missing one.
"""

from __future__ import annotations

from pathlib import Path

from tstk.data.columns import ColumnRoles
from tstk.data.containers import Samples, SeriesSet, pad_series, parse_floats, read_lines
from tstk.errors import DataError


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read the series of one file, as split "train".

    Args:
        path: a file that ends in .ts
        roles: rejected, as the label always follows the last colon

    Raises:
        DataError: a line cannot be parsed; the message names it
    """
    roles.reject(path, "in a .ts file, whose label follows the last colon")
    source, lines = str(path), read_lines(path)
    header, data_start = _parse_header(lines, path)
    has_labels = _has_labels(header, path)
    series, labels = [], []
    for line_number, line in enumerate(lines[data_start:], data_start + 1):
        if not line.strip():
            continue
        fields = line.split(":")
        if has_labels:
            labels.append(fields.pop().strip())
            if not fields:
                raise DataError(f"{path}, line {line_number}: no ':' before the label")
        series.append(_parse_channels(fields, f"{source}, line {line_number}"))
    if not series:
        raise DataError(f"{path}: no line after @data, so there is no series")
    return {"train": SeriesSet(pad_series(series, source), source, labels if has_labels else None)}


def _parse_header(lines: list[str], path: Path) -> tuple[dict[str, list[str]], int]:
    """Return the words of each @-line by its keyword, in lower case, and the number of header lines."""
    header: dict[str, list[str]] = {}
    for line_number, line in enumerate(lines, 1):
        if line.startswith("@"):
            keyword, *words = line.split()
            if keyword.lower() == "@data":
                return header, line_number
            header[keyword.lower()] = [word.lower() for word in words]
    raise DataError(f"{path}: no @data line, so this is not a .ts file, or it is cut short")


def _has_labels(header: dict[str, list[str]], path: Path) -> bool:
    if header.get("@timestamps", ["false"])[:1] == ["true"]:
        raise DataError(f"{path}: @timeStamps true is not supported; write the samples alone")
    if header.get("@targetlabel", ["false"])[:1] == ["true"]:
        raise DataError(f"{path}: @targetLabel true (regression) is not supported")
    if "@classlabel" not in header:
        raise DataError(f"{path}: no @classLabel line; write '@classLabel false', or 'true' and the classes")
    return header["@classlabel"][:1] == ["true"]


def _parse_channels(fields: list[str], location: str) -> Samples:
    """Parse the channels [C, T] of one line, and pad shorter ones with NaN."""
    rows = [parse_floats(field.split(","), location) for field in fields]
    if len(rows) == 1:
        return rows[0][None]
    return pad_series([row[None] for row in rows], location)[:, 0]
