"""What a reader returns: a `SeriesSet`, or a `Table` whose rows are in order of time.

NaN marks a missing sample in both. Samples become float32, or float64 where float32 cannot tell them
apart. Both validate themselves, so the reader of a plugin gets the same error messages as the built-in ones. Symbols: N
series, C channels, T samples or rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.core.repr import ShortRepr
from tstk.data.lazy_array import LazyArray, Samples, iter_chunks
from tstk.data.memory import require_memory
from tstk.data.precision import to_float32
from tstk.errors import DataError

NA_VALUES = {"", "?", "nan", "na", "null"}
"""Spellings of a missing cell, in lower case."""

_CONTROL_CHARACTER = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(repr=False)
class SeriesSet(ShortRepr):
    """A set of series, with labels and groups if the file has them.

    Args:
        x: [N, C, T] samples, in memory or in a file; NaN where a sample is missing or the series has ended
        source: the file, for messages
        y: N labels, as written in the file
        groups: N names, such as persons or devices; series of one group stay in the same split
        ids: N names of the series themselves, which predictions carry
        targets: [N, K] numbers to predict, NaN where unknown
        target_names: K names
        channels: C names; empty if the file has none
        classes: the labels in the order in which the file declares them; empty if it declares none
        note: one sentence on how an ambiguous file was read, or empty

    Raises:
        DataError: the shapes disagree, there is no series, or a series is entirely missing, infinite or without a label
    """

    x: Samples | LazyArray
    source: str
    y: list[str] | None = None
    groups: list[str] | None = None
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    note: str = ""
    ids: list[str] | None = None
    targets: Samples | None = None
    target_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        source, shape = self.source, self.x.shape
        if len(shape) != 3:
            raise DataError(f"{source}: X has shape {shape}; expected (series, channels, samples)")
        if 0 in shape:
            raise DataError(f"{source}: no samples: X has shape {shape} (series, channels, samples)")
        if self.channels and len(self.channels) != shape[1]:
            hint = "; X looks transposed" if len(self.channels) == shape[2] else ""
            raise DataError(
                f"{source}: {len(self.channels)} channel names, but X has shape {shape}, "
                f"expected (series, channels, samples){hint}"
            )
        for kind, items in (("labels", self.y), ("groups", self.groups), ("ids", self.ids), ("targets", self.targets)):
            if items is not None and len(items) != shape[0]:
                raise DataError(f"{source}: {len(items)} {kind} for {shape[0]} series; give one for each")
        require_memory(
            16 * shape[1] * shape[2] + 32 * shape[0],
            f"{source}: the statistics of {shape[0]:,} series and the samples of one, {shape[1]:,} x {shape[2]:,},",
            "cut the series into shorter ones",
        )
        self.x, note = to_float32(self.x)
        if note and note not in self.note:
            self.note = "; ".join(filter(None, (self.note, f"{source}: {note}")))
        missing, infinite = zip(
            *((np.isnan(x).all((1, 2)), np.isinf(x).any((1, 2))) for x in iter_chunks(self.x)), strict=True
        )
        self._reject_series(np.concatenate(missing), "is entirely missing; remove it, or give it at least one sample")
        self._reject_series(np.concatenate(infinite), "holds an infinite value; write missing samples as NaN")
        if self.targets is not None:
            self._check_targets(self.targets)
        if self.y is not None:
            unlabelled = {label for label in set(self.y) if label.strip().lower() in NA_VALUES}
            self._reject_series(np.array([label in unlabelled for label in self.y]), "has no label; remove it")

    def _check_targets(self, targets: Samples) -> None:
        if targets.ndim != 2 or not targets.shape[1]:
            raise DataError(f"{self.source}: targets have shape {targets.shape}; expected (series, targets)")
        if self.target_names and len(self.target_names) != targets.shape[1]:
            count = len(self.target_names)
            raise DataError(f"{self.source}: {count} target names for {targets.shape[1]} targets; give one for each")
        self._reject_series(np.isinf(targets).any(1), "has an infinite target; leave it empty if it is unknown")

    def resize(self, length: int) -> SeriesSet:
        """Resample each series to `length` samples by linear interpolation from its first to its last sample.

        Missing samples between two observed ones are interpolated; a channel without any sample stays missing.
        """
        num_series, num_channels, _ = self.x.shape
        require_memory(
            length * (2 * self.x.dtype.itemsize * num_series * num_channels + 24),
            f"{self.source}: {num_series:,} series of {num_channels:,} x {length:,} samples",
            "give a smaller --resize",
        )
        resized = np.full((num_series, num_channels, length), np.nan, self.x.dtype)
        for series, resized_series in zip(self.x, resized, strict=True):
            observed = ~np.isnan(series)
            positions = np.linspace(0, np.flatnonzero(observed.any(0))[-1], length)
            for channel, is_observed, row in zip(series, observed, resized_series, strict=True):
                if is_observed.any():
                    row[:] = np.interp(positions, np.flatnonzero(is_observed), channel[is_observed])
        return replace(self, x=resized)

    def _reject_series(self, is_bad: Any, reason: str) -> None:
        if rows := np.flatnonzero(is_bad).tolist():
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise DataError(f"{self.source}: series {rows[0] + 1}{more} {reason}")


@dataclass(repr=False)
class Table(ShortRepr):
    """Channels that were measured together over time, to be cut into windows.

    Args:
        values: [T, C] samples, NaN where missing
        source: the file, for messages
        channels: C names
        dates: [T] datetime64, or strings where the file's format is not ISO 8601

    Raises:
        DataError: there are no rows, a column is empty, a value is infinite, or the dates run backwards
    """

    values: Samples
    source: str
    channels: tuple[str, ...]
    dates: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if 0 in self.values.shape:
            rows, columns = self.values.shape
            raise DataError(f"{self.source}: no values: {rows} rows of {columns} channels")
        self.values = np.asarray(to_float32(self.values.T[None])[0][0].T)
        for name, column in zip(self.channels, self.values.T, strict=True):
            if np.isnan(column).all():
                raise DataError(f"{self.source}: column {name!r} holds no value; fill or remove it")
            if np.isinf(column).any():
                row = np.isinf(column).argmax() + 1
                raise DataError(
                    f"{self.source}: column {name!r} holds an infinite value in row {row}; fix or remove it"
                )
        if self.dates is not None and self.dates.dtype.kind == "M":
            backward = np.flatnonzero(self.dates[1:] < self.dates[:-1])
            if backward.size:
                raise DataError(f"{self.source}: row {backward[0] + 2} is dated before the row above it; sort the rows")


def pad_series(series: Sequence[Samples], source: str) -> Samples:
    """Stack series of unequal lengths into one array, padded with NaN at the end.

    Args:
        series: N arrays [C, T_i]
        source: the file, for messages

    Returns:
        [N, C, T] with the longest T

    Raises:
        DataError: there is no series, or their numbers of channels differ
    """
    if not series:
        raise DataError(f"{source}: the file holds no series")
    num_channels = len(series[0])
    for i, array in enumerate(series):
        if len(array) != num_channels:
            raise DataError(
                f"{source}: series {i + 1} has {len(array)} channels, series 1 has {num_channels}; "
                "mark missing ones by NaN or ?"
            )
    lengths = [array.shape[1] for array in series]
    longest = max(lengths)
    require_memory(
        2 * 8 * len(series) * num_channels * longest,  # twice: a validation split is a copy
        f"{source}: {len(series):,} series, padded to the {longest:,} samples of series {lengths.index(longest) + 1},",
        "cut that series into shorter ones, or remove it",
    )
    padded = np.full((len(series), num_channels, longest), np.nan)
    for i, array in enumerate(series):
        padded[i, :, : array.shape[1]] = array
    return padded


def parse_floats(cells: Sequence[str], location: str) -> Samples:
    """Convert cells of text to float64, and missing cells to NaN.

    Args:
        cells: T pieces of text
        location: file and line, for messages

    Raises:
        DataError: a cell is not a number
    """
    try:
        return np.array(list(map(float, cells)))
    except ValueError:
        return np.array([_parse_float(cell, location) for cell in cells])


def _parse_float(cell: str, location: str) -> float:
    if cell.strip().lower() in NA_VALUES:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        raise DataError(
            f"{location}: {cell.strip()!r} is not a number; decimals take a point, a missing value is ? or NaN"
        ) from None


def normalize_label(label: object) -> str:
    """Return a label as text, whole numbers without decimals, so that 1, 1.0 and 1e0 are one class."""
    text = str(label).strip()
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() and "_" not in text else text  # float("1_0") is 10


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file.

    Raises:
        DataError: the file is empty, is not text or cannot be opened, or holds a control character
    """
    try:
        require_memory(4 * path.stat().st_size, f"{path}: its lines", "save the set as .npy files, or in several parts")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file that you may read") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path}: not a text file in UTF-8; save it as UTF-8")
    if control := _CONTROL_CHARACTER.search(text):
        line_number = text.count("\n", 0, control.start()) + 1
        raise DataError(f"{path}, line {line_number}: holds the control character {control[0]!r}; remove it")
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: the file is empty; write or fetch it again")
    return lines
