"""Annotations of WFDB records, such as the beats in `100.atr`: where they are, and the symbol of each.

The format is the "MIT format" of https://physionet.org/physiotools/wag/annot-5.htm: words of 16 bits, of which 6 are a
code and 10 an interval.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tstk.data.memory import require_memory
from tstk.errors import DataError

SYMBOLS = dict(enumerate("NLRaVFJASEj/Q~", 1)) | {16: "|"} | dict(enumerate('sT*D"=pB^t+u?![]en@xf()r', 18))
"""Code -> symbol, as in the list of PhysioNet; 0 and other codes are written as numbers."""

BEATS = frozenset("NLRaVFJASEj/QB?enfr")
"""Symbols of annotations that mark a beat."""

DEFAULT_ANNOTATIONS = "atr"
"""Suffix of the reference annotations of a record."""

_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63
"""Codes of words that are no annotations, but belong to one."""
_TIME_RESOLUTION = "## time resolution:"


@dataclass
class Annotations:
    """Annotations in order of their file.

    Args:
        positions: [M] samples from the beginning of the record
        symbols: M symbols, such as "N" for a normal beat
        texts: M texts, empty where an annotation has none, such as the rhythm "(AFIB"
        time_resolution: positions per second if the file declares it; None if they are samples of the record
    """

    positions: NDArray[np.int64]
    symbols: list[str]
    texts: list[str]
    time_resolution: float | None = None


def read_annotations(path: str | Path) -> Annotations:
    """Read the annotations of a record.

    Args:
        path: the file, such as 100.atr

    Raises:
        DataError: the file cannot be read, or is damaged or cut short
    """
    path = Path(path)
    try:
        require_memory(100 * path.stat().st_size, f"{path}: its annotations", "divide the record")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file that you may read") from None
    try:
        positions, symbols, texts = _parse(data)
    except (struct.error, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it ends without an end mark, so it is cut short"
        raise DataError(f"{path}: not a file of annotations: {reason}; fetch it again") from None
    resolution = None
    if texts and texts[0].startswith(_TIME_RESOLUTION):
        try:
            resolution = float(texts[0].removeprefix(_TIME_RESOLUTION))
        except ValueError:
            raise DataError(f"{path}: {texts[0]!r} is no time resolution; fetch the file again") from None
        positions, symbols, texts = positions[1:], symbols[1:], texts[1:]
    return Annotations(np.array(positions, np.int64), symbols, texts, resolution)


def _parse(data: bytes) -> tuple[list[int], list[str], list[str]]:
    """Return the positions, symbols and texts of the annotations.

    Raises:
        ValueError: a word does not belong where it is, or a position is before the record
        struct.error: there is no end mark
    """
    positions: list[int] = []
    symbols: list[str] = []
    texts: list[str] = []
    place = position = 0
    while True:
        (word,) = struct.unpack_from("<H", data, place)
        place += 2
        code, interval = word >> 10, word & 1023
        if word == 0:
            return positions, symbols, texts
        if code == _SKIP:
            high, low = struct.unpack_from("<hH", data, place)
            place += 4
            position += (high << 16) + low
        elif code == _AUX:
            if not texts:
                raise ValueError("a text before the first annotation")
            (text,) = struct.unpack_from(f"{interval}s", data, place)
            place += interval + interval % 2
            texts[-1] = text.rstrip(b"\0").decode("utf-8", "replace")
        elif code not in (_NUM, _SUB, _CHN):
            position += interval
            if position < 0:
                raise ValueError(f"annotation {len(positions) + 1} is before the record")
            positions.append(position)
            symbols.append(SYMBOLS.get(code, str(code)))
            texts.append("")
