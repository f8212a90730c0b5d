"""What a reader hands over: `Raw` for a set of series, `Table` for rows of time.

In both, NaN means that a sample is missing. Both check themselves, so a reader written elsewhere gets the same clear
errors as ours. Symbols: N series, C channels, T samples or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.lazy_array import Floats, Stored, chunks
from tstk.errors import DataError

MISSING = {"", "?", "nan", "na", "null"}
"""Spellings of a missing cell, in lower case."""


@dataclass
class Raw:
    """A set of series, with labels and groups if the file has them.

    Args:
        x: [N, C, T] samples, in memory or in a file; NaN where one is missing or the series has already ended
        source: the file, for messages
        y: N labels, as written in the file
        groups: N names of what must not be torn apart by a split (a person, a device)
        channels: C names; empty if the file has none
        classes: the labels in the order that the file declares; empty if it declares none
        told: how the reader understood the file, where it had to decide; one sentence, or empty

    Raises:
        DataError: the shapes disagree, there is no series, or one is entirely missing, infinite or without a label
    """

    x: Floats | Stored
    source: str
    y: list[str] | None = None
    groups: list[str] | None = None
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    told: str = ""

    def __post_init__(self) -> None:
        where, shape = self.source, self.x.shape
        if len(shape) != 3:
            raise DataError(f"{where}: X has shape {shape}; expected (series, channels, samples)")
        if 0 in shape:
            raise DataError(f"{where}: there is no sample in it; X has shape {shape} (series, channels, samples)")
        if self.channels and len(self.channels) != shape[1]:
            hint = "; X looks transposed" if len(self.channels) == shape[2] else ""
            raise DataError(
                f"{where}: {len(self.channels)} channel names, but X has shape {shape}, "
                f"expected (series, channels, samples){hint}"
            )
        for what, items in (("labels", self.y), ("groups", self.groups)):
            if items is not None and len(items) != shape[0]:
                raise DataError(f"{where}: {len(items)} {what} for {shape[0]} series; give one for each")
        missing, infinite = zip(
            *((np.isnan(x).all((1, 2)), np.isinf(x).any((1, 2))) for x in chunks(self.x)), strict=True
        )
        self._refuse(np.concatenate(missing), "is entirely missing; remove it, or give it at least one sample")
        self._refuse(np.concatenate(infinite), "holds an infinite value; write missing samples as NaN")
        if self.y is not None:
            self._refuse(np.array([label.strip().lower() in MISSING for label in self.y]), "has no label; remove it")

    def resized(self, length: int) -> Raw:
        """Each series stretched or pressed to `length` samples, from its first to its last, by linear interpolation;
        what is missing between two samples is filled. A channel without any sample stays so."""
        out = np.full((*self.x.shape[:2], length), np.nan, np.float32)
        for one, to in zip(self.x, out, strict=True):
            seen = ~np.isnan(one)
            at = np.linspace(0, np.flatnonzero(seen.any(0))[-1], length)
            for channel, here, row in zip(one, seen, to, strict=True):
                if here.any():
                    row[:] = np.interp(at, np.flatnonzero(here), channel[here])
        return replace(self, x=out)

    def _refuse(self, bad: Any, why: str) -> None:
        if rows := np.flatnonzero(bad).tolist():
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise DataError(f"{self.source}: series {rows[0] + 1}{more} {why}")


@dataclass
class Table:
    """Channels measured together at successive times, to be cut into windows.

    Args:
        values: [T, C] samples, NaN where missing
        source: the file, for messages
        channels: C names
        dates: [T] datetime64, or strings where the file's format is not ISO 8601

    Raises:
        DataError: there is no row, a column is empty, a value infinite, or the dates run backwards
    """

    values: Floats
    source: str
    channels: tuple[str, ...]
    dates: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if 0 in self.values.shape:
            rows, columns = self.values.shape
            raise DataError(f"{self.source}: {rows} rows of {columns} channels; there is nothing to read")
        for name, column in zip(self.channels, self.values.T, strict=True):
            if np.isnan(column).all() or np.isinf(column).any():
                infinite = f"an infinite value in row {np.isinf(column).argmax() + 1}"
                what = "no value" if np.isnan(column).all() else infinite
                raise DataError(f"{self.source}: column {name!r} holds {what}; mend or remove it")
        if self.dates is not None and self.dates.dtype.kind == "M":
            back = np.flatnonzero(self.dates[1:] < self.dates[:-1])
            if back.size:
                raise DataError(f"{self.source}: row {back[0] + 2} is dated before the row above it; sort the rows")


def pad(series: Sequence[Floats], source: str) -> Floats:
    """Series of unequal lengths as one array, padded with NaN at the end.

    Args:
        series: N arrays [C, T_i]
        source: the file, for messages

    Returns:
        [N, C, T] with the longest T

    Raises:
        DataError: there is no series, or they differ in their channels
    """
    if not series:
        raise DataError(f"{source}: there is no series in it")
    channels = len(series[0])
    for i, one in enumerate(series):
        if len(one) != channels:
            raise DataError(
                f"{source}: series {i + 1} has {len(one)} channels, series 1 has {channels}; "
                "mark missing ones by NaN or ?"
            )
    out = np.full((len(series), channels, max(one.shape[1] for one in series)), np.nan, np.float32)
    for i, one in enumerate(series):
        out[i, :, : one.shape[1]] = one
    return out


def numbers(cells: Sequence[str], where: str) -> Floats:
    """Cells of text as numbers; a missing one becomes NaN.

    Args:
        cells: T pieces of text
        where: file and line, for messages

    Raises:
        DataError: a cell is not a number
    """
    try:
        return np.array(list(map(float, cells)), np.float32)
    except ValueError:
        return np.array([_number(cell, where) for cell in cells], np.float32)


def _number(cell: str, where: str) -> float:
    if cell.strip().lower() in MISSING:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        raise DataError(
            f"{where}: {cell.strip()!r} is not a number; decimals take a point, a missing value is ? or NaN"
        ) from None


def plain(label: object) -> str:
    """A label as text; a whole number loses its decimals, so that 1, 1.0 and 1e0 are one class."""
    text = str(label).strip()
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() and "_" not in text else text  # Python takes 1_0 for 10


def lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: the file is empty or not text
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path}: not a text file in UTF-8; save it as UTF-8")
    found = text.splitlines()
    if not any(line.strip() for line in found):
        raise DataError(f"{path}: the file is empty; write or fetch it again")
    return found
