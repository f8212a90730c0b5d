"""Reader of WFDB records, as PhysioNet publishes them: a header `.hea`, and the signals that it names beside it.

Signals of formats 16 and 212 are read, which most databases use; values are in the units of the header. A record is a
table without dates: `--length` cuts it into series.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import Floats, Table, lines
from tstk.errors import DataError

_FORMAT = re.compile(r"(\d+)([x:]\S*?)?(?:\+(\d+))?$")
_GAIN = re.compile(r"([-+.\deE]+)(?:\((-?\d+)\))?(?:/(\S+))?$")
_LOWEST = {16: -(2**15), 212: -(2**11)}
"""What marks a missing sample, by format."""


@dataclass
class Signal:
    """One line of the header: where a signal lies, and what its numbers mean."""

    file: str
    format: int
    skip: int
    gain: float
    baseline: int
    checksum: int | None
    name: str


def read(path: Path, *, label: str | None = None) -> Table:
    """The signals of a record, in their units.

    Args:
        path: a header, which ends in .hea
        label: refused, a record has none

    Raises:
        DataError: naming the line of the header that cannot be read, or the signal file that is missing or damaged
    """
    if label is not None:
        raise DataError(f"{path}: --label {label} has no meaning for a WFDB record, which has no labels")
    signals, count = _header(path)
    columns: dict[int, Floats] = {}
    for file in dict.fromkeys(signal.file for signal in signals):
        here = [signal for signal in signals if signal.file == file]
        raw = _raw(path.with_name(file), here, count)
        for signal, column in zip(here, raw.T, strict=True):
            if signal.checksum is not None and (int(column.sum()) - signal.checksum) % 2**16:
                raise DataError(f"{path.with_name(file)}: signal {signal.name} is damaged (checksum); fetch it again")
            physical = (column - signal.baseline) / signal.gain
            missing = column == _LOWEST[signal.format]
            columns[id(signal)] = np.where(missing, np.nan, physical).astype(np.float32)

    return Table(
        np.stack([columns[id(signal)] for signal in signals], 1), str(path), tuple(signal.name for signal in signals)
    )


def _header(path: Path) -> tuple[list[Signal], int | None]:
    """The signals, and how many samples each has, where the header says so."""
    text = [
        (f"{path}, line {at}", line.split())
        for at, line in enumerate(lines(path), 1)
        if line.strip() and not line.startswith("#")
    ]
    where, record = text[0] if text else (str(path), [])
    try:
        name, signals = record[0], int(record[1])
        count = int(record[3]) if len(record) > 3 else 0
    except (IndexError, ValueError):
        raise DataError(f"{where}: expected 'RECORD SIGNALS RATE SAMPLES', the first line of a WFDB header") from None
    if "/" in name:
        raise DataError(f"{where}: a record in several segments is not read; name the header of one segment")
    if len(text) <= signals:
        raise DataError(f"{path}: {len(text) - 1} lines of signals, the first line says {signals}; fetch it again")
    return [_signal(line, at, i) for i, (at, line) in enumerate(text[1 : signals + 1])], count or None


def _signal(cells: list[str], where: str, number: int) -> Signal:
    form = _FORMAT.match(cells[1]) if len(cells) > 1 else None
    gain = _GAIN.match(cells[2]) if len(cells) > 2 else None
    if form is None or (len(cells) > 2 and gain is None):
        raise DataError(f"{where}: expected 'FILE FORMAT GAIN ...', a signal of a WFDB header")
    if int(form[1]) not in _LOWEST or form[2]:
        raise DataError(f"{where}: format {form[0]} is not read, but 16 and 212 are; convert it with xform")
    if Path(cells[0]).name != cells[0]:
        raise DataError(f"{where}: {cells[0]} lies elsewhere; signals are read from beside their header alone")
    numbers = dict(zip(("resolution", "zero", "first", "checksum"), cells[3:7], strict=False))
    try:
        zero = int(numbers.get("zero", 0))
        checksum = int(numbers["checksum"]) if "checksum" in numbers else None
        scale = float(gain[1]) if gain else 0.0
    except ValueError:
        raise DataError(f"{where}: expected whole numbers after the gain, as in a WFDB header") from None
    return Signal(
        file=cells[0],
        format=int(form[1]),
        skip=int(form[3] or 0),
        gain=scale or 200.0,  # what the format says where there is none
        baseline=int(gain[2]) if gain and gain[2] else zero,
        checksum=checksum,
        name=" ".join(cells[8:]) or str(number),
    )


def _raw(path: Path, signals: list[Signal], count: int | None) -> NDArray[np.int64]:
    """[T, signals] what the converter measured, of the signals that lie interleaved in one file."""
    try:
        data = np.fromfile(path, np.uint8)[signals[0].skip :]
    except OSError:
        raise DataError(f"{path}: there is no such file, though its header names it; fetch it too") from None
    if signals[0].format == 16:
        flat = data[: len(data) // 2 * 2].view("<i2").astype(np.int64)
    else:
        low, middle, high = data[: len(data) // 3 * 3].reshape(-1, 3).T.astype(np.int64)
        pairs = np.stack([low | (middle & 15) << 8, high | (middle >> 4) << 8], 1)
        flat = ((pairs + 2**11) % 2**12 - 2**11).ravel()  # twelve bits with a sign
    have = len(flat) // len(signals)
    if count is None:
        count = have
    if have < count:
        raise DataError(f"{path}: {have} samples, its header says {count}; it is cut short, fetch it again")
    return flat[: count * len(signals)].reshape(count, -1)
