"""Reader of `.arff`, Weka's format as the UCR and UEA archives use it: attributes, then one series per line.

A univariate file has one numeric attribute per sample; a multivariate one a relational attribute, a quoted piece of
text whose lines (written `\\n`) are the channels. A nominal attribute at the end is the class.
"""

from __future__ import annotations

import re
from pathlib import Path

from tstk.data.containers import Floats, Raw, lines, numbers, pad, plain
from tstk.errors import DataError

_ATTRIBUTE = re.compile(r"@attribute\s+('[^']*'|\"[^\"]*\"|\S+)\s+(.+)", re.IGNORECASE)
_RELATION = re.compile(r"""\s*(['"])(.*?)\1\s*(?:,(.*))?$""")


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The series of one file, as part "train".

    Args:
        path: a file that ends in .arff
        label: refused, the class is the last attribute

    Raises:
        DataError: naming the line that cannot be read
    """
    if label is not None:
        raise DataError(f"{path}: --label {label} has no meaning in an .arff file, whose class is its last attribute")
    text = lines(path)
    samples, relational, classes, first = _header(text, path)
    series, labels = [], []
    for at, line in enumerate(text[first:], first + 1):
        where = f"{path}, line {at}"
        if not line.strip() or line.startswith("%"):
            continue
        if line.startswith("{"):
            raise DataError(f"{where}: sparse data ({{index value, ...}}) are not read; write every sample")
        one, rest = _relation(line, where) if relational else _plain(line, samples, classes is not None, where)
        series.append(one)
        if classes is not None:
            if len(rest) != 1:
                raise DataError(f"{where}: {len(rest)} cells after the samples; expected the class alone")
            labels.append(plain(rest[0].strip("'\"")))
            if classes and labels[-1] not in classes and labels[-1] != "?":
                raise DataError(f"{where}: class {labels[-1]!r} is not declared; declared are {', '.join(classes)}")
    if not series:
        raise DataError(f"{path}: no line after @data, so there is no series")
    return {"train": Raw(pad(series, str(path)), str(path), None if classes is None else labels, classes=classes or ())}


def _header(text: list[str], path: Path) -> tuple[int, bool, tuple[str, ...] | None, int]:
    """Numeric attributes outside a relation, whether there is a relation, the classes, and lines before the data."""
    samples, relational, inside, classes = 0, False, False, None
    for at, line in enumerate(map(str.strip, text), 1):
        low = line.lower()
        if low.startswith("@data"):
            return samples, relational, classes, at
        if low.startswith("@end"):
            inside = False
        elif low.startswith("@attribute"):
            if (found := _ATTRIBUTE.match(line)) is None:
                raise DataError(f"{path}, line {at}: expected '@attribute NAME TYPE'")
            kind = found[2].strip()
            if inside:
                continue
            if kind.startswith("{"):
                classes = tuple(plain(name.strip(" \t'\"")) for name in kind.strip("{} \t").split(","))
            elif kind.lower() == "relational":
                relational = inside = True
            elif kind.lower() in ("numeric", "real", "integer"):
                samples += 1
            elif kind.lower() == "string" and classes is None:
                classes = ()
            else:
                raise DataError(f"{path}, line {at}: attributes of type {kind} are not read; make it numeric")
            if classes is not None and kind.lower() in ("numeric", "real", "integer", "relational"):
                raise DataError(f"{path}, line {at}: an attribute after the class; put the class last")
    raise DataError(f"{path}: no @data line, so this is not an .arff file, or it is cut short")


def _plain(line: str, samples: int, labelled: bool, where: str) -> tuple[Floats, list[str]]:
    cells = line.split(",")
    if len(cells) != samples + labelled:
        more = " and a class" if labelled else ""
        raise DataError(f"{where}: {len(cells)} cells, the header declares {samples} samples{more}; mend the line")
    return numbers(cells[:samples], where)[None], cells[samples:]


def _relation(line: str, where: str) -> tuple[Floats, list[str]]:
    if (found := _RELATION.match(line)) is None:
        raise DataError(f"{where}: expected the channels in quotes, then the class")
    rows = [numbers(row.split(","), where)[None] for row in found[2].split("\\n")]
    return pad(rows, where)[:, 0], found[3].split(",") if found[3] else []
