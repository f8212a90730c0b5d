"""Reader of WFDB records, PhysioNet's format: a header `.hea`, and the signal files that it names beside it.

All formats of https://physionet.org/physiotools/wag/signal-5.htm are read but those compressed by FLAC. Values are in
the physical units of the header. A record is a table without dates: `--length` cuts it into series. Nothing is fetched:
the signal files must be beside the header.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tstk.data.annotations import BEATS, DEFAULT_ANNOTATIONS, read_annotations
from tstk.data.channels import choose_channels, describe_choice
from tstk.data.columns import ColumnRoles
from tstk.data.containers import Samples, Table, read_lines
from tstk.data.memory import require_memory
from tstk.data.readers.excerpt import cut_excerpt
from tstk.data.segmentation import SampleLabels, encode_sample_labels
from tstk.errors import DataError
from tstk.plugins.ranges import NonNegativeFloat

_FORMAT = re.compile(r"(\d{1,9})([x:]\S*?)?(?:\+(\d{1,15}))?$")
_GAIN = re.compile(r"([-+.\deE]+)(?:\((-?\d{1,9})\))?(?:/(\S+))?$")
_CONTROL_CHARACTER = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\xff]")

_FLAC_FORMATS = (508, 516, 524)
_TYPES = {16: ("<i2", 0), 61: (">i2", 0), 160: ("<u2", 2**15), 80: ("u1", 2**7), 8: ("i1", 0), 32: ("<i4", 0)}
"""Format whose samples are whole bytes -> type, and what is subtracted."""
_LEFT_OVER = {24: (0, 0, 0), 212: (0, 0, 1), 310: (0, 0, 1, 1), 311: (0, 0, 1, 2)}
"""Format whose samples are packed into blocks -> the samples in 0, 1, ... bytes of an incomplete block."""
_SAMPLES_PER_BLOCK = {24: 1, 212: 2, 310: 3, 311: 3}
_BITS = {8: 8, 16: 16, 24: 24, 32: 32, 61: 16, 80: 8, 160: 16, 212: 12, 310: 10, 311: 10}
"""Format -> bits of a sample; the smallest number marks a missing one, except in 8, which holds differences."""

_MEMORY_PER_SAMPLE = 40
"""Bytes of a digital sample and of a physical one, and of their copies."""


@dataclass
class Signal:
    """One line of the header: the file of a signal, and how its samples are encoded."""

    file: str
    format: int
    byte_offset: int
    gain: float
    baseline: int
    initial_value: int
    checksum: int | None
    name: str


def read(
    path: Path,
    roles: ColumnRoles = ColumnRoles(),
    *,
    start: NonNegativeFloat = 0.0,
    stop: NonNegativeFloat | None = None,
) -> Table:
    """Read the signals of a record, in physical units.

    Args:
        path: a header, which ends in .hea
        roles: channels and drop choose signals by name; for a class per sample, label is the suffix of the file of
            annotations, atr if not given; others are rejected, as a record has no labels
        start: where to begin, in seconds from the first sample
        stop: where to end, in seconds from the first sample; the end if not given

    Raises:
        DataError: a line of the header cannot be parsed, or a signal file is missing or damaged
    """
    supported = ("channels", "drop", *["label"] * roles.label_per_sample)
    roles.reject(path, "for a WFDB record, which has no labels", supported)
    lines, note = _read_header(path)
    signals, num_samples, rate = _parse_header(path, lines)
    names = [signal.name for signal in signals]
    chosen = choose_channels(names, roles, str(path))
    columns: dict[int, Samples] = {}
    for file in dict.fromkeys(signal.file for signal in signals):
        file_signals = [signal for signal in signals if signal.file == file]
        samples = _read_samples(path.with_name(file), file_signals, num_samples)
        for signal, column in zip(file_signals, samples.T, strict=True):
            if signal.checksum is not None and (int(column.sum()) - signal.checksum) % 2**16:
                raise DataError(f"{path.with_name(file)}: signal {signal.name} is damaged (checksum); fetch it again")
            physical = (column - signal.baseline) / signal.gain
            missing = (column == -(2 ** (_BITS[signal.format] - 1))) & (signal.format != 8)
            columns[id(signal)] = np.where(missing, np.nan, physical)
    indices = range(len(signals)) if chosen is None else chosen
    values = np.stack([columns[id(signals[i])] for i in indices], 1)
    labels: SampleLabels | tuple[None, tuple[str, ...]] = (None, ())
    label_note = ""
    if roles.label_per_sample:
        labels, label_note = _read_labels(path, roles, len(values))
    if labels[0] is not None:
        labels = (cut_excerpt(labels[0], rate, start, stop, path)[0], labels[1])
    values, excerpt = cut_excerpt(values, rate, start, stop, path)
    notes = [note] * bool(note) + [f"{path.name}: {text}" for text in (*describe_choice(names, chosen), *excerpt)]
    chosen_names = tuple(names[i] for i in indices)
    note = "; ".join(filter(None, (*notes, label_note)))
    sample_labels, classes = labels
    return Table(values, str(path), chosen_names, None, note, sample_labels, classes, rate or None)


def _read_labels(
    path: Path, roles: ColumnRoles, num_samples: int
) -> tuple[SampleLabels | tuple[None, tuple[str, ...]], str]:
    """Return the class of each sample by the annotations of a record, and a note on what they are.

    If there are rhythms, such as "(AFIB", each lasts until the next one; else the samples from halfway to the beat
    before to halfway to the beat after have the symbol of a beat.
    """
    file = path.with_suffix(f".{roles.label or DEFAULT_ANNOTATIONS}")
    if not file.is_file():
        if "label" in roles.optional:
            return (None, ()), ""
        raise DataError(f"{path}: no annotations {file.name} beside it; --label-column SUFFIX names their suffix")
    annotations = read_annotations(file)
    if annotations.time_resolution is not None:
        raise DataError(f"{file}: its positions are in 1/{annotations.time_resolution:g} s, not in samples; convert it")
    rhythms = [i for i, text in enumerate(annotations.texts) if text.startswith("(")]
    names = np.full(num_samples, "", object)
    if rhythms:
        ends = [*annotations.positions[rhythms[1:]], num_samples]
        for i, end in zip(rhythms, ends, strict=True):
            names[annotations.positions[i] : end] = annotations.texts[i].removeprefix("(")
    else:
        beats = [i for i, symbol in enumerate(annotations.symbols) if symbol in BEATS]
        centers = annotations.positions[beats]
        edges = [0, *(centers[1:] + centers[:-1]) // 2, num_samples]
        for i, start, end in zip(beats, edges, edges[1:], strict=False):
            names[start:end] = annotations.symbols[i]
    kind = "rhythm" if rhythms else "symbol of the beat around it"
    return encode_sample_labels(names.tolist()), f"{file.name}: the class of a sample is the {kind}"


def _read_header(path: Path) -> tuple[list[str], str]:
    """Return the lines of a header, and a note if they are not in UTF-8 and are read as Latin-1."""
    data = path.read_bytes() if path.is_file() and path.stat().st_size < 2**24 else b""
    try:
        data.decode()
    except UnicodeDecodeError:
        if not _CONTROL_CHARACTER.search(text := data.decode("latin-1")):
            return text.splitlines(), f"{path.name}: the header is not in UTF-8 and was read as Latin-1"
    return read_lines(path), ""


def _parse_header(path: Path, text: list[str]) -> tuple[list[Signal], int | None, float]:
    """Return the signals, their number of samples if the header declares it, and the samples per second."""
    lines = [
        (f"{path}, line {number}", line.split())
        for number, line in enumerate(text, 1)
        if line.strip() and not line.startswith("#")
    ]
    location, record = lines[0] if lines else (str(path), [])
    try:
        name, num_signals = record[0], int(record[1])
        num_samples = int(record[3]) if len(record) > 3 else 0
        rate = float(re.split("[/(]", record[2])[0]) if len(record) > 2 else 0.0
        if not math.isfinite(rate) or rate < 0:
            raise ValueError
    except (IndexError, ValueError):
        raise DataError(
            f"{location}: expected 'RECORD SIGNALS RATE SAMPLES', the first line of a WFDB header"
        ) from None
    if num_signals == 0:
        raise DataError(
            f"{location}: the record has no signals, only annotations or notes; give the header of one with signals"
        )
    if num_signals < 0 or num_samples < 0:
        raise DataError(f"{location}: {num_signals} signals of {num_samples} samples; expected positive numbers")
    if "/" in name:
        raise DataError(f"{location}: records in several segments are not supported; give the header of one segment")
    if len(lines) <= num_signals:
        raise DataError(f"{path}: {len(lines) - 1} lines of signals, the first line says {num_signals}; fetch it again")
    signals = [_parse_signal(cells, place, i) for i, (place, cells) in enumerate(lines[1 : num_signals + 1])]
    return signals, num_samples or None, rate or 250.0  # the default of the format


def _parse_signal(cells: list[str], location: str, index: int) -> Signal:
    format_ = _FORMAT.match(cells[1]) if len(cells) > 1 else None
    gain = _GAIN.match(cells[2]) if len(cells) > 2 else None
    if format_ is None or (len(cells) > 2 and gain is None):
        raise DataError(f"{location}: expected 'FILE FORMAT GAIN ...', a signal of a WFDB header")
    if int(format_[1]) not in _BITS or format_[2]:
        reason = " (FLAC)" if int(format_[1]) in _FLAC_FORMATS else ""
        reason = " (several samples per frame, or skewed)" if format_[2] else reason
        raise DataError(f"{location}: format {format_[0]}{reason} is not supported; convert it to 16 with xform")
    if Path(cells[0]).name != cells[0] or cells[0] == "..":
        raise DataError(f"{location}: {cells[0]} is in another folder; signal files must be beside their header")
    numbers = dict(zip(("resolution", "zero", "first", "checksum"), cells[3:7], strict=False))
    try:
        zero = int(numbers.get("zero", 0))
        initial_value = int(numbers.get("first", 0))
        checksum = int(numbers["checksum"]) if "checksum" in numbers else None
        scale = float(gain[1]) if gain else 0.0
        if max(abs(zero), abs(initial_value), abs(checksum or 0)) > 2**31 or not math.isfinite(scale):
            raise ValueError
    except ValueError:
        raise DataError(f"{location}: expected whole numbers after the gain, as in a WFDB header") from None
    return Signal(
        file=cells[0],
        format=int(format_[1]),
        byte_offset=int(format_[3] or 0),
        gain=scale or 200.0,  # the default of the format
        baseline=int(gain[2]) if gain and gain[2] else zero,
        initial_value=initial_value,
        checksum=checksum,
        name=" ".join(cells[8:]) or str(index),
    )


def _read_samples(path: Path, signals: list[Signal], num_samples: int | None) -> NDArray[np.int64]:
    """Read the digital samples [T, signals] of the signals that are interleaved in one file."""
    form, offset = signals[0].format, signals[0].byte_offset
    if any((signal.format, signal.byte_offset) != (form, offset) for signal in signals):
        raise DataError(f"{path}: its signals have different formats or offsets in the header; fetch the header again")
    try:
        num_available = path.stat().st_size * 8 // _BITS[form]
        require_memory(_MEMORY_PER_SAMPLE * num_available, f"{path}: its samples", "divide the record")
        data = np.fromfile(path, np.uint8)[offset:]
    except OSError:
        raise DataError(f"{path}: there is no such file, though its header names it; fetch it too") from None
    flat = _decode(data, form)
    num_available = len(flat) // len(signals)
    if num_samples is None:
        num_samples = num_available
    if num_available < num_samples:
        raise DataError(
            f"{path}: {num_available} samples, its header says {num_samples}; it is cut short, fetch it again"
        )
    samples = flat[: num_samples * len(signals)].reshape(num_samples, -1)
    return samples.cumsum(0) + [signal.initial_value for signal in signals] if form == 8 else samples


def _decode(data: NDArray[np.uint8], form: int) -> NDArray[np.int64]:
    """Return the digital samples that the bytes of a signal file hold, for format 8 their differences."""
    if form in _TYPES:
        kind, offset = _TYPES[form]
        size = np.dtype(kind).itemsize
        return data[: len(data) // size * size].view(kind).astype(np.int64) - offset
    left_over = _LEFT_OVER[form]
    size = len(left_over)
    count = len(data) // size * _SAMPLES_PER_BLOCK[form] + left_over[len(data) % size]
    blocks = np.concatenate([data, np.zeros(-len(data) % size, np.uint8)]).reshape(-1, size).T.astype(np.int64)
    flat = np.stack(_unpack(blocks, form), 1).ravel()[:count]
    half = 2 ** (_BITS[form] - 1)
    return (flat + half) % (2 * half) - half  # sign-extend


def _unpack(b: NDArray[np.int64], form: int) -> list[NDArray[np.int64]]:
    """Return the samples of each block, without a sign, from its bytes."""
    if form == 24:
        return [b[0] | b[1] << 8 | b[2] << 16]
    if form == 212:
        return [b[0] | (b[1] & 15) << 8, b[2] | (b[1] >> 4) << 8]
    if form == 310:
        return [b[0] >> 1 | (b[1] & 7) << 7, b[2] >> 1 | (b[3] & 7) << 7, b[1] >> 3 | (b[3] >> 3) << 5]
    return [b[0] | (b[1] & 3) << 8, b[1] >> 2 | (b[2] & 15) << 6, b[2] >> 4 | (b[3] & 63) << 4]
