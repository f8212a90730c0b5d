"""Reader of `.edf` and `.bdf`, the European data format and BioSemi's: signals in physical units, as a table.

Takes edfio: `pip install 'tstk-core[edf]'`. The signals of one table have one rate. A recording is a table without
dates, as that of `tstk.data.readers.wfdb`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tstk.data.channels import choose_channels, describe_choice
from tstk.data.columns import ColumnRoles
from tstk.data.containers import Table
from tstk.data.memory import require_memory
from tstk.data.readers.excerpt import cut_excerpt
from tstk.errors import DataError
from tstk.plugins.distribution import format_install_command
from tstk.plugins.ranges import NonNegativeFloat

_MEMORY_PER_BYTE = 20
"""Bytes of a digital sample of 2 or 3 bytes and of a physical one, and of their copies, per byte of the file."""


def read(
    path: Path,
    roles: ColumnRoles = ColumnRoles(),
    *,
    start: NonNegativeFloat = 0.0,
    stop: NonNegativeFloat | None = None,
) -> Table:
    """Read the signals of a recording, in physical units.

    Args:
        path: a file that ends in .edf or .bdf
        roles: channels and drop choose signals by their label; others are rejected
        start: where to begin, in seconds from the first sample
        stop: where to end, in seconds from the first sample; the end if not given

    Raises:
        DataError: edfio is not installed, the file is damaged or cut short, has gaps, or signals of different rates
    """
    roles.reject(path, f"for a recording in {path.suffix}", ("channels", "drop"))
    try:
        from edfio import read_bdf, read_edf
    except ImportError as error:
        raise DataError(f"{path}: reading it takes edfio: {format_install_command('edf')}") from error
    encoding = _check_header(path)
    read_recording: Any = read_bdf if path.suffix.lower() == ".bdf" else read_edf
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a file that is cut short
            recording = read_recording(path, header_encoding=encoding)
            signals = list(recording.signals)
            labels = [signal.label for signal in signals]
            rates = [signal.sampling_frequency for signal in signals]
            has_gaps = recording.reserved.startswith(("EDF+D", "BDF+D"))
    except UserWarning as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}; it is cut short, fetch it again") from None
    except Exception:  # edfio raises many kinds of errors for a damaged file
        raise DataError(f"{path}: cut short or not an {path.suffix} file; write or fetch it again") from None
    if has_gaps:
        raise DataError(f"{path}: was recorded with gaps ({path.suffix[1:].upper()}+D); export it without, as +C")
    if not signals:
        raise DataError(f"{path}: holds no signals, only annotations; give the recording that they belong to")
    indices = choose_channels(labels, roles, str(path))
    chosen = range(len(signals)) if indices is None else indices
    _check_rates(path, [labels[i] for i in chosen], [rates[i] for i in chosen])
    values = np.stack([_to_physical(signals[i], labels[i], path) for i in chosen], 1)
    values, excerpt = cut_excerpt(values, rates[chosen[0]], start, stop, path)
    notes = [_describe_units(signals[i] for i in chosen), *describe_choice(labels, indices), *excerpt]
    if encoding == "latin-1":
        notes.append("the header is not in UTF-8 and was read as Latin-1")
    notes.append("annotations and times are not used")
    note = f"{path.name}: {rates[chosen[0]]:g} Hz; {'; '.join(notes)}"
    return Table(values, str(path), tuple(labels[i] for i in chosen), note=note, sampling_rate=rates[chosen[0]])


def _check_header(path: Path) -> str:
    """Check that a recording can be opened and fits into memory; return the encoding of its header."""
    try:
        require_memory(_MEMORY_PER_BYTE * path.stat().st_size, f"{path}: its signals", "divide the recording")
        with path.open("rb") as file:
            start = file.read(256)
            header = start[8:] + file.read(256 * min(int(start[252:256] or 0), 9999))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file that you may read") from None
    except ValueError:
        raise DataError(f"{path}: empty or not an {path.suffix} file; write or fetch it again") from None
    try:
        header.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _check_rates(path: Path, labels: Sequence[str], rates: Sequence[float]) -> None:
    by_rate: dict[float, list[str]] = {}
    for label, rate in zip(labels, rates, strict=True):
        by_rate.setdefault(rate, []).append(label)
    if len(by_rate) > 1:
        listed = "; ".join(f"{rate:g} Hz: {', '.join(names)}" for rate, names in by_rate.items())
        most = ",".join(sorted(by_rate.values(), key=len)[-1])
        raise DataError(
            f"{path}: signals of different rates ({listed}); read those of one rate: --channel-columns '{most}'"
        )


def _to_physical(signal: Any, label: str, path: Path) -> Any:
    """Return the samples [T] of a signal in its unit."""
    try:
        low, high = float(signal.physical_min), float(signal.physical_max)
        digital_low, digital_high = int(signal.digital_min), int(signal.digital_max)
        gain = (high - low) / (digital_high - digital_low)
        if not math.isfinite(gain) or gain == 0:
            raise ValueError
        digital = np.asarray(signal.digital, np.float64)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise DataError(f"{path}: the range of signal {label!r} is damaged, so its unit is unknown; drop it") from None
    return (digital - digital_low) * gain + low


def _describe_units(signals: Iterable[Any]) -> str:
    units: dict[str, list[str]] = {}
    for signal in signals:
        units.setdefault(signal.physical_dimension or "no unit", []).append(signal.label)
    return ", ".join(f"{unit} ({', '.join(labels)})" for unit, labels in units.items())
