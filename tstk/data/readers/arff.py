"""Reader of `.arff`, Weka's format as the UCR and UEA archives use it: attributes, then one series per line.

A univariate file has one numeric attribute per sample; a multivariate one has a relational attribute, a quoted string
whose lines (written `\\n`) are the channels. A nominal attribute at the end is the class.
"""

from __future__ import annotations

import re
from pathlib import Path

from tstk.data.columns import ColumnRoles
from tstk.data.containers import Samples, SeriesSet, normalize_labels, pad_series, parse_floats, read_lines
from tstk.errors import DataError

_ATTRIBUTE = re.compile(r"@attribute\s+('[^']*'|\"[^\"]*\"|\S+)\s+(.+)", re.IGNORECASE)
_RELATIONAL_ROW = re.compile(r"""\s*(['"])(.*?)\1\s*(?:,(.*))?$""")


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read the series of one file, as split "train".

    Args:
        path: a file that ends in .arff
        roles: rejected, as the class is always the last attribute

    Raises:
        DataError: a line cannot be parsed; the message names it
    """
    roles.reject(path, "in an .arff file, whose class is its last attribute")
    lines = read_lines(path)
    num_samples, is_relational, classes, data_start = _parse_header(lines, path)
    series, labels, locations = [], [], []
    for line_number, line in enumerate(lines[data_start:], data_start + 1):
        location = f"{path}, line {line_number}"
        if not line.strip() or line.startswith("%"):
            continue
        if line.startswith("{"):
            raise DataError(f"{location}: sparse data ({{index value, ...}}) are not supported; write every sample")
        samples, label_cells = (
            _parse_relational(line, location)
            if is_relational
            else _parse_univariate(line, num_samples, classes is not None, location)
        )
        series.append(samples)
        if classes is not None:
            if len(label_cells) != 1:
                raise DataError(f"{location}: {len(label_cells)} cells after the samples; expected the class alone")
            labels.append(label_cells[0].strip().strip("'\""))
            locations.append(location)
    if not series:
        raise DataError(f"{path}: no line after @data, so there is no series")
    labels = normalize_labels(labels)
    for label, location in zip(labels, locations, strict=True):
        if classes and label not in (*classes, "?"):
            raise DataError(f"{location}: class {label!r} is not declared; declared are {', '.join(classes)}")
    return {
        "train": SeriesSet(
            pad_series(series, str(path)), str(path), None if classes is None else labels, classes=classes or ()
        )
    }


def _parse_header(lines: list[str], path: Path) -> tuple[int, bool, tuple[str, ...] | None, int]:
    """Return the number of samples, whether there is a relation, the classes, and the number of header lines.

    The samples are the numeric attributes outside the relation.
    """
    num_samples, is_relational, in_relation, classes = 0, False, False, None
    for line_number, line in enumerate(map(str.strip, lines), 1):
        keyword = line.lower()
        if keyword.startswith("@data"):
            return num_samples, is_relational, classes, line_number
        if keyword.startswith("@end"):
            in_relation = False
        elif keyword.startswith("@attribute"):
            if (attribute := _ATTRIBUTE.match(line)) is None:
                raise DataError(f"{path}, line {line_number}: expected '@attribute NAME TYPE'")
            kind = attribute[2].strip()
            if in_relation:
                continue
            if kind.startswith("{"):
                classes = tuple(normalize_labels(name.strip(" \t'\"") for name in kind.strip("{} \t").split(",")))
            elif kind.lower() == "relational":
                is_relational = in_relation = True
            elif kind.lower() in ("numeric", "real", "integer"):
                num_samples += 1
            elif kind.lower() == "string" and classes is None:
                classes = ()
            else:
                raise DataError(
                    f"{path}, line {line_number}: attributes of type {kind} are not supported; make it numeric"
                )
            if classes is not None and kind.lower() in ("numeric", "real", "integer", "relational"):
                raise DataError(f"{path}, line {line_number}: an attribute after the class; put the class last")
    raise DataError(f"{path}: no @data line, so this is not an .arff file, or it is cut short")


def _parse_univariate(line: str, num_samples: int, has_label: bool, location: str) -> tuple[Samples, list[str]]:
    cells = line.split(",")
    if len(cells) != num_samples + has_label:
        more = " and a class" if has_label else ""
        raise DataError(
            f"{location}: {len(cells)} cells, the header declares {num_samples} samples{more}; fix the line"
        )
    return parse_floats(cells[:num_samples], location)[None], cells[num_samples:]


def _parse_relational(line: str, location: str) -> tuple[Samples, list[str]]:
    if (match := _RELATIONAL_ROW.match(line)) is None:
        raise DataError(f"{location}: expected the channels in quotes, then the class")
    rows = [parse_floats(row.split(","), location)[None] for row in match[2].split("\\n")]
    return pad_series(rows, location)[:, 0], match[3].split(",") if match[3] else []
