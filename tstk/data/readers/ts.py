"""Reader of `.ts`, the format of the UCR and UEA archives: a header of @-lines, then one series per line.

A series is its channels separated by colons, the label or target last; samples are separated by commas, `?` marks a
missing one. The format is that of https://www.aeon-toolkit.org/en/stable/api_reference/data_format.html.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tstk.data.columns import ColumnRoles
from tstk.data.containers import Samples, SeriesSet, normalize_labels, pad_series, parse_floats, read_lines
from tstk.errors import DataError

Header = dict[str, list[str]]


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read the series of one file, as split "train".

    Args:
        path: a file that ends in .ts
        roles: rejected, as the label or target always follows the last colon

    Raises:
        DataError: a line cannot be parsed; the message names it
    """
    roles.reject(path, "in a .ts file, whose label follows the last colon")
    source, lines = str(path), read_lines(path)
    header, data_start = _parse_header(lines, path)
    has_targets, has_labels = _has_targets(header), _has_labels(header, path)
    rows = [
        (f"{path}, line {number}", line.strip().split(":"))
        for number, line in enumerate(lines[data_start:], data_start + 1)
        if line.strip()
    ]
    if not rows:
        raise DataError(f"{path}: no line after @data, so there is no series")
    last_cells, notes = [], []
    if has_labels or has_targets:
        last_cells = [cells.pop().strip() for _, cells in rows]
        for location, cells in rows:
            if not cells:
                raise DataError(f"{location}: no ':' before the {'label' if has_labels else 'target'}")
    elif _ends_in_colons(rows, header):
        for _, cells in rows:
            cells.pop()
        notes.append("the colon at the end of each line is not a channel")
    x = pad_series([_parse_channels(cells, location) for location, cells in rows], source)
    targets = None
    if has_targets:
        targets = np.array([parse_floats([c], place) for c, (place, _) in zip(last_cells, rows, strict=True)])
        _check_finite(targets, rows)
    notes += _describe_contradictions(x, header)
    return {
        "train": SeriesSet(
            x,
            source,
            normalize_labels(last_cells) if has_labels else None,
            note=f"{path.name}: {'; '.join(notes)}" if notes else "",
            targets=targets,
            target_names=("target",) if has_targets else (),
        )
    }


def _parse_header(lines: list[str], path: Path) -> tuple[Header, int]:
    """Return the words of each @-line by its keyword, in lower case, and the number of header lines."""
    header: Header = {}
    for line_number, line in enumerate(lines, 1):
        if line.startswith("@"):
            keyword, *words = line.split()
            if keyword.lower() == "@data":
                return header, line_number
            header[keyword.lower()] = [word.lower() for word in words]
    raise DataError(f"{path}: no @data line, so this is not a .ts file, or it is cut short")


def _is_true(header: Header, keyword: str) -> bool:
    return header.get(keyword, ["false"])[:1] == ["true"]


def _has_targets(header: Header) -> bool:
    return _is_true(header, "@targetlabel")


def _has_labels(header: Header, path: Path) -> bool:
    if _is_true(header, "@timestamps"):
        raise DataError(f"{path}: @timeStamps true is not supported; write the samples alone")
    if "@classlabel" not in header and "@targetlabel" not in header:
        raise DataError(f"{path}: no @classLabel line; write '@classLabel false', or 'true' and the classes")
    if _is_true(header, "@classlabel") and _has_targets(header):
        raise DataError(
            f"{path}: both @classLabel true and @targetLabel true; a line ends in one of them, remove the other"
        )
    return _is_true(header, "@classlabel")


def _get_num_channels(header: Header) -> int | None:
    """Return the number of channels that the header declares, or None."""
    if _is_true(header, "@univariate"):
        return 1
    words = next((header[key] for key in ("@dimensions", "@dimension") if key in header), [])
    return int(words[0]) if words and words[0].isdecimal() and len(words[0]) < 10 else None


def _ends_in_colons(rows: list[tuple[str, list[str]]], header: Header) -> bool:
    """Return whether each line of unlabelled series ends in a colon, where the header declares no channel."""
    if any(len(cells) < 2 or cells[-1].strip() for _, cells in rows):
        return False
    return _get_num_channels(header) != len(rows[0][1])


def _parse_channels(cells: list[str], location: str) -> Samples:
    """Parse the channels [C, T] of one line, and pad shorter ones with NaN."""
    channels = [parse_floats(cell.split(","), location) for cell in cells]
    if len(channels) == 1:
        return channels[0][None]
    return pad_series([channel[None] for channel in channels], location)[:, 0]


def _check_finite(targets: Samples, rows: list[tuple[str, list[str]]]) -> None:
    if np.isinf(targets).any():
        location = rows[int(np.isinf(targets).any(1).argmax())][0]
        raise DataError(f"{location}: the target is infinite; write an unknown one as ?")


def _describe_contradictions(x: Samples, header: Header) -> list[str]:
    """Return a note for each statement of the header that the series contradict; the series are right."""
    notes = []
    num_channels, declared = x.shape[1], _get_num_channels(header)
    if declared is not None and declared != num_channels:
        notes.append(f"the header declares {declared} channels, and the lines have {num_channels}")
    length = header.get("@serieslength", [""])[:1]
    if _is_true(header, "@equallength") and length and length[0].isdecimal() and length[0] != str(x.shape[2]):
        notes.append(f"the header declares {length[0]} samples, and the longest series has {x.shape[2]}")
    if _is_true(header, "@equallength") and np.isnan(x[..., -1]).all(1).any():
        notes.append("the header declares series of equal lengths, and some are shorter")
    return notes
