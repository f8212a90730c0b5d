"""Reader of WFDB records, PhysioNet's format: a header `.hea`, and the signal files that it names beside it.

Formats 16 and 212 are supported, which most databases use; values are in the physical units of the header. A record is
a table without dates: `--length` cuts it into series.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tstk.data.columns import ColumnRoles
from tstk.data.containers import Samples, Table, read_lines
from tstk.data.memory import require_memory
from tstk.errors import DataError

_FORMAT = re.compile(r"(\d{1,9})([x:]\S*?)?(?:\+(\d{1,15}))?$")
_GAIN = re.compile(r"([-+.\deE]+)(?:\((-?\d{1,9})\))?(?:/(\S+))?$")
_MISSING_CODES = {16: -(2**15), 212: -(2**11)}
"""Value of a missing sample, by format."""


@dataclass
class Signal:
    """One line of the header: the file of a signal, and how its samples are encoded."""

    file: str
    format: int
    byte_offset: int
    gain: float
    baseline: int
    checksum: int | None
    name: str


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> Table:
    """Read the signals of a record, in physical units.

    Args:
        path: a header, which ends in .hea
        roles: rejected, as a record has no labels

    Raises:
        DataError: a line of the header cannot be parsed, or a signal file is missing or damaged
    """
    roles.reject(path, "for a WFDB record, which has no labels")
    signals, num_samples = _parse_header(path)
    columns: dict[int, Samples] = {}
    for file in dict.fromkeys(signal.file for signal in signals):
        file_signals = [signal for signal in signals if signal.file == file]
        samples = _read_samples(path.with_name(file), file_signals, num_samples)
        for signal, column in zip(file_signals, samples.T, strict=True):
            if signal.checksum is not None and (int(column.sum()) - signal.checksum) % 2**16:
                raise DataError(f"{path.with_name(file)}: signal {signal.name} is damaged (checksum); fetch it again")
            physical = (column - signal.baseline) / signal.gain
            missing = column == _MISSING_CODES[signal.format]
            columns[id(signal)] = np.where(missing, np.nan, physical)

    return Table(
        np.stack([columns[id(signal)] for signal in signals], 1), str(path), tuple(signal.name for signal in signals)
    )


def _parse_header(path: Path) -> tuple[list[Signal], int | None]:
    """Return the signals, and their number of samples if the header declares it."""
    lines = [
        (f"{path}, line {number}", line.split())
        for number, line in enumerate(read_lines(path), 1)
        if line.strip() and not line.startswith("#")
    ]
    location, record = lines[0] if lines else (str(path), [])
    try:
        name, num_signals = record[0], int(record[1])
        num_samples = int(record[3]) if len(record) > 3 else 0
    except (IndexError, ValueError):
        raise DataError(
            f"{location}: expected 'RECORD SIGNALS RATE SAMPLES', the first line of a WFDB header"
        ) from None
    if num_signals < 1 or num_samples < 0:
        raise DataError(f"{location}: {num_signals} signals of {num_samples} samples; expected positive numbers")
    if "/" in name:
        raise DataError(f"{location}: records in several segments are not supported; give the header of one segment")
    if len(lines) <= num_signals:
        raise DataError(f"{path}: {len(lines) - 1} lines of signals, the first line says {num_signals}; fetch it again")
    signals = [_parse_signal(cells, place, i) for i, (place, cells) in enumerate(lines[1 : num_signals + 1])]
    return signals, num_samples or None


def _parse_signal(cells: list[str], location: str, index: int) -> Signal:
    format_ = _FORMAT.match(cells[1]) if len(cells) > 1 else None
    gain = _GAIN.match(cells[2]) if len(cells) > 2 else None
    if format_ is None or (len(cells) > 2 and gain is None):
        raise DataError(f"{location}: expected 'FILE FORMAT GAIN ...', a signal of a WFDB header")
    if int(format_[1]) not in _MISSING_CODES or format_[2]:
        raise DataError(f"{location}: format {format_[0]} is not supported, only 16 and 212; convert it with xform")
    if Path(cells[0]).name != cells[0] or cells[0] == "..":
        raise DataError(f"{location}: {cells[0]} is in another folder; signal files must be beside their header")
    numbers = dict(zip(("resolution", "zero", "first", "checksum"), cells[3:7], strict=False))
    try:
        zero = int(numbers.get("zero", 0))
        checksum = int(numbers["checksum"]) if "checksum" in numbers else None
        scale = float(gain[1]) if gain else 0.0
        if max(abs(zero), abs(checksum or 0)) > 2**31 or not math.isfinite(scale):
            raise ValueError
    except ValueError:
        raise DataError(f"{location}: expected whole numbers after the gain, as in a WFDB header") from None
    return Signal(
        file=cells[0],
        format=int(format_[1]),
        byte_offset=int(format_[3] or 0),
        gain=scale or 200.0,  # the default of the format
        baseline=int(gain[2]) if gain and gain[2] else zero,
        checksum=checksum,
        name=" ".join(cells[8:]) or str(index),
    )


def _read_samples(path: Path, signals: list[Signal], num_samples: int | None) -> NDArray[np.int64]:
    """Read the digital samples [T, signals] of the signals that are interleaved in one file."""
    try:
        # 8 bytes per digital sample and 8 per physical one, of 2 bytes or less, and their copies
        require_memory(20 * path.stat().st_size, f"{path}: its samples", "divide the record")
        data = np.fromfile(path, np.uint8)[signals[0].byte_offset :]
    except OSError:
        raise DataError(f"{path}: there is no such file, though its header names it; fetch it too") from None
    if signals[0].format == 16:
        flat = data[: len(data) // 2 * 2].view("<i2").astype(np.int64)
    else:
        low, middle, high = data[: len(data) // 3 * 3].reshape(-1, 3).T.astype(np.int64)
        pairs = np.stack([low | (middle & 15) << 8, high | (middle >> 4) << 8], 1)
        flat = ((pairs + 2**11) % 2**12 - 2**11).ravel()  # sign-extend 12 bits
    num_available = len(flat) // len(signals)
    if num_samples is None:
        num_samples = num_available
    if num_available < num_samples:
        raise DataError(
            f"{path}: {num_available} samples, its header says {num_samples}; it is cut short, fetch it again"
        )
    return flat[: num_samples * len(signals)].reshape(num_samples, -1)
