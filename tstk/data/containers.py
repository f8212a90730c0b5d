"""What a reader returns: a `SeriesSet`, or a `Table` whose rows are in order of time.

NaN marks a missing sample in both. Samples become float32, or float64 where float32 cannot tell them
apart. Both validate themselves, so the reader of a plugin gets the same error messages as the built-in ones. Symbols: N
series, C channels, T samples or rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.core.arrays import fill_masked
from tstk.core.repr import ShortRepr
from tstk.data.lazy_array import LazyArray, Samples, iter_chunks
from tstk.data.memory import require_memory
from tstk.data.precision import to_float32
from tstk.data.times import Times
from tstk.errors import DataError, OptionError

NA_VALUES = {"", "?", "nan", "na", "null"}
"""Spellings of a missing cell, in lower case."""

_WHOLE_NUMBER = re.compile(r"(0|-?[1-9]\d*)(?:\.0*)?", re.ASCII)
_WHOLE_EXPONENT = re.compile(r"-?\d(\.\d*)?e[+-]\d\d", re.ASCII)
"""As `%e` of C and `str` of Python write floats."""

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
        sample_labels: [N, T] int32, index into `classes` of each sample, -1 where unknown or beyond the end
        recordings: [N] int64, the recording of which each series is a window; None if series are whole
        rows: [N] int64, the place of each series in its file, from 0; of a window of a table, the row at which it
            begins. In order if None
        times: of the samples of each series, if the file has them
        sampling_rates: N rates in Hz, if the files have them and no times
        file_rows: of each series [T_i] the row of its file that each sample is, from 0, and -1 for those that were
            inserted; None if none were, or a row holds more than a sample

    Raises:
        DataError: the shapes disagree, there is no series, or a series is entirely missing or infinite
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
    rows: NDArray[np.int64] | None = None
    sample_labels: NDArray[np.int32] | None = None
    recordings: NDArray[np.int64] | None = None
    times: list[Times] | None = None
    sampling_rates: list[float] | None = None
    file_rows: list[NDArray[np.int64]] | None = None

    def __post_init__(self) -> None:
        source, shape = self.source, self.x.shape
        self.x = fill_masked(self.x)
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
        lists = {"labels": self.y, "groups": self.groups, "ids": self.ids, "targets": self.targets, "times": self.times}
        for kind, items in lists.items():
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
        if self.sample_labels is not None and self.sample_labels.shape != (shape[0], shape[2]):
            raise DataError(
                f"{source}: a class per sample of shape {self.sample_labels.shape}; expected {(shape[0], shape[2])}"
            )
        self._clear_labels_beyond_end()
        if self.targets is not None:
            self._check_targets(self.targets)
        undeclared = sorted(set(self.y or ()) - set(self.classes) - self.missing_labels)
        if self.classes and undeclared:
            declared = ", ".join(self.classes)
            raise DataError(f"{source}: label {undeclared[0]!r} is not among the classes {declared}; add it there")

    @property
    def missing_labels(self) -> set[str]:
        """The spellings of a missing label that occur, such as an empty cell or NA; a declared class is none."""
        return {label for label in set(self.y or ()) - set(self.classes) if label.strip().lower() in NA_VALUES}

    def require_labels(self, separator: str | None = None) -> None:
        """Check that no series lacks its label, if there are labels.

        Args:
            separator: what is between the labels of a cell that holds several, if one does

        Raises:
            DataError: a label is missing
        """
        if self.y is None or not (missing := self.missing_labels):
            return
        is_missing = np.array([label in missing for label in self.y])
        spelling = self.y[int(is_missing.argmax())].strip().strip("?")  # ? marks what is missing in several formats
        fault = f"has the label {spelling!r}, which is read as a missing one" if spelling else "has no label"
        remedy = "rename it if it is a class, or remove the series" if spelling else "remove it"
        if separator is not None:
            remedy += f"; for none of the labels, write {separator!r}"
        self._reject_series(is_missing, f"{fault}; {remedy}, or pretrain without labels (--drop-columns)")

    def _clear_labels_beyond_end(self) -> None:
        """Make the class of samples beyond the end of a series unknown, which arrays pad with any; a note says so."""
        if self.sample_labels is None:
            return
        is_beyond = np.concatenate([_find_padding(x) for x in iter_chunks(self.x)]) & (self.sample_labels >= 0)
        if count := int(is_beyond.sum()):
            self.sample_labels = np.where(is_beyond, np.int32(-1), self.sample_labels)
            note = f"{self.source}: {count:,} samples beyond the end of a series have a class, which is not used"
            self.note = "; ".join(filter(None, (self.note, note)))

    def _check_targets(self, targets: Samples) -> None:
        if targets.ndim != 2 or not targets.shape[1]:
            raise DataError(f"{self.source}: targets have shape {targets.shape}; expected (series, targets)")
        if self.target_names and len(self.target_names) != targets.shape[1]:
            count = len(self.target_names)
            raise DataError(f"{self.source}: {count} target names for {targets.shape[1]} targets; give one for each")
        self._reject_series(np.isinf(targets).any(1), "has an infinite target; leave it empty if it is unknown")

    def resize(self, length: int) -> SeriesSet:
        """Resample each series to `length` samples by linear interpolation from its first to its last sample.

        Missing samples between two observed ones are interpolated; a channel without any sample stays missing. A class
        per sample is that of the nearest one.
        """
        num_series, num_channels, _ = self.x.shape
        require_memory(
            length * (2 * self.x.dtype.itemsize * num_series * num_channels + 24),
            f"{self.source}: {num_series:,} series of {num_channels:,} x {length:,} samples",
            "give a smaller --resize",
        )
        labels = None if self.sample_labels is None else np.full((num_series, length), -1, np.int32)
        resized = np.full((num_series, num_channels, length), np.nan, self.x.dtype)
        for row, (series, resized_series) in enumerate(zip(self.x, resized, strict=True)):
            observed = ~np.isnan(series)
            positions = np.linspace(0, np.flatnonzero(observed.any(0))[-1], length)
            if labels is not None and self.sample_labels is not None:
                labels[row] = self.sample_labels[row, np.round(positions).astype(int)]
            for channel, is_observed, samples in zip(series, observed, resized_series, strict=True):
                if is_observed.any():
                    samples[:] = np.interp(positions, np.flatnonzero(is_observed), channel[is_observed])
        return replace(self, x=resized, sample_labels=labels, times=None, sampling_rates=None, file_rows=None)

    def select(self, index: NDArray[np.int64]) -> SeriesSet:
        """Return the series at `index` [M], with all that belongs to them."""
        subset = copy(self)  # they have been validated
        subset.x = self.x.select(index) if isinstance(self.x, LazyArray) else self.x[index]
        subset.targets = None if self.targets is None else self.targets[index]
        subset.sample_labels = None if self.sample_labels is None else self.sample_labels[index]
        subset.recordings = None if self.recordings is None else self.recordings[index]
        subset.rows = index if self.rows is None else self.rows[index]
        for name in ("y", "groups", "ids", "times", "sampling_rates", "file_rows"):
            values = getattr(self, name)
            setattr(subset, name, None if values is None else [values[i] for i in index.tolist()])
        return subset

    def name_series(self, index: int) -> str:
        """Return how messages name a series: its number in the file, counted from 1, and its id."""
        recording = None if self.recordings is None else int(self.recordings[index])
        row = index if self.rows is None else int(self.rows[index])
        return describe_series(row, recording, None if self.ids is None else self.ids[index])

    def locate_sample(self, index: int, sample: int) -> str:
        """Return how messages name a sample of a series, or that of its recording if the series is a window of one."""
        if self.recordings is None or self.rows is None:
            return f"sample {sample + 1} of {self.name_series(index)}"
        name = describe_series(int(self.recordings[index]), None, None if self.ids is None else self.ids[index])
        return f"sample {int(self.rows[index]) + sample + 1} of {name}"

    def _reject_series(self, is_bad: Any, reason: str) -> None:
        if rows := np.flatnonzero(is_bad).tolist():
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise DataError(f"{self.source}: {self.name_series(rows[0])}{more} {reason}")


def describe_series(row: int, recording: int | None, name: str | None) -> str:
    """Return how messages name a series.

    Args:
        row: its place in its file, or in the recording of which it is a window, from 0; -1 if it begins with an
            inserted row, whose time is then the id of a window of a table
        recording: place of this recording in its file, from 0; None if the series is no window
        name: the id, if there is one
    """
    suffix = "" if name is None else f" (id {name})"
    if recording is None:
        return (f"series {row + 1}" if row >= 0 else "the series from an inserted row on") + suffix
    return f"series {recording + 1}{suffix}, window from {f'sample {row + 1}' if row >= 0 else 'an inserted row'} on"


def _find_padding(x: Samples) -> NDArray[np.bool_]:
    """Return [N, T], whether a sample of series [N, C, T] is after the last one that any channel has."""
    is_missing = np.asarray(np.isnan(x).all(1))
    return np.asarray(np.logical_and.accumulate(is_missing[:, ::-1], 1)[:, ::-1])


@dataclass(repr=False)
class Table(ShortRepr):
    """Channels that were measured together over time, to be cut into windows.

    Args:
        values: [T, C] samples, NaN where missing
        source: the file, for messages
        channels: C names
        times: of the T rows, if the file has them
        note: one sentence on how the file was read, or empty
        sample_labels: [T] int32, index into `classes` of each row, -1 where unknown; None if rows have no labels
        classes: names of these classes
        sampling_rate: in Hz, if the file has it and no times
        name: of the series of a set that this is, see `list_tables`; None if it is a file of its own
        file_rows: [T] place of each row in its file, from 0, and -1 for those that were inserted; None if none were

    Raises:
        DataError: there are no rows, a column of a file is empty, a value is infinite, or the times run backwards
    """

    values: Samples
    source: str
    channels: tuple[str, ...]
    times: Times | None = None
    note: str = ""
    sample_labels: NDArray[np.int32] | None = None
    classes: tuple[str, ...] = ()
    sampling_rate: float | None = None
    name: str | None = None
    file_rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if 0 in self.values.shape:
            rows, columns = self.values.shape
            raise DataError(f"{self.source}: no values: {rows} rows of {columns} channels")
        if self.sample_labels is not None and self.sample_labels.shape != self.values.shape[:1]:
            raise DataError(
                f"{self.source}: {len(self.sample_labels)} labels for {len(self.values)} rows; give one for each"
            )
        if self.name is None:  # a set has decided it for all of its series
            self.values = np.asarray(to_float32(self.values.T[None])[0][0].T)
        for name, column in zip(self.channels, self.values.T, strict=True):
            if self.name is None and np.isnan(column).all():
                raise DataError(f"{self.source}: column {name!r} holds no value; fill or remove it")
            if np.isinf(column).any():
                row = np.isinf(column).argmax() + 1
                raise DataError(
                    f"{self.source}: column {name!r} holds an infinite value in row {row}; fix or remove it"
                )
        if self.times is not None:
            backward = np.flatnonzero(self.times.values[1:] < self.times.values[:-1])
            if backward.size:
                raise DataError(f"{self.source}: row {backward[0] + 2} is dated before the row above it; sort the rows")

    def count_file_rows(self, stop: int) -> int:
        """Return how many of the rows before `stop` the file has, so that inserted ones are not counted."""
        return stop if self.file_rows is None else int((self.file_rows[:stop] >= 0).sum())

    def select_rows(self, start: int, stop: int) -> Table:
        """Return the rows from `start` to before `stop`, with all that belongs to them."""
        return replace(
            self,
            values=self.values[start:stop],
            times=None if self.times is None else self.times[start:stop],
            sample_labels=None if self.sample_labels is None else self.sample_labels[start:stop],
            file_rows=None if self.file_rows is None else self.file_rows[start:stop],
        )


def list_tables(data: SeriesSet | Table) -> list[Table]:
    """Return the series of a set as tables, each with its name: its id, or its place in the file; a table as it is."""
    if isinstance(data, Table):
        return [data]
    if isinstance(data.x, LazyArray):
        num_bytes = 16 * int(np.prod(data.x.shape))  # the samples, those of the splits, and a copy of each
        subject = f"{data.source}: {data.x.shape[0]:,} series of {data.x.shape[1]:,} x {data.x.shape[2]:,} samples,"
        require_memory(num_bytes, f"{subject} which forecasting holds in memory,", "keep fewer series or shorter ones")
    rows = range(len(data.x)) if data.rows is None else data.rows.tolist()
    names = list(map(str, rows)) if data.ids is None else data.ids
    channels = data.channels or tuple(map(str, range(data.x.shape[1])))
    tables: list[Table] = []
    for x in iter_chunks(data.x):
        for series in x:
            times = None if data.times is None else data.times[len(tables)]
            end = np.flatnonzero(~np.isnan(series).all(0))[-1] + 1 if times is None else len(times.values)
            places = None if data.file_rows is None else count_rows(data.file_rows[len(tables)][:end])
            tables.append(
                Table(series[:, :end].T, data.source, channels, times, name=names[len(tables)], file_rows=places)
            )
    return tables


def count_rows(file_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places [T] of the samples of a series among those that its file has, from 0; -1 of inserted ones."""
    is_in_file = file_rows >= 0
    return np.where(is_in_file, is_in_file.cumsum() - 1, -1)


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


def is_number(cell: str) -> bool:
    """Return whether a cell of text is a number; NaN is one, an empty cell is not."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


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


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names sorted by number, if all of them are numbers, else by name."""
    names = sorted(names)
    try:
        return tuple(sorted(names, key=Decimal))  # float merges whole numbers above 2**53
    except InvalidOperation:
        return tuple(names)


def normalize_labels(column: Iterable[object]) -> list[str]:
    """Return a column of labels, groups or ids as text; labels whose text differs stay different.

    If all are whole numbers and some are written as floats (`1.0`, `1.0000000e+00`), the column holds indices that
    another program stored as floats, and all are written as integers. `01`, `1E1` and `1_0` are names.

    Args:
        column: N texts, bytes in UTF-8, or numbers; equal ones become the same object
    """
    values = list(column)
    texts = {value: to_text(value) for value in set(values)}
    present = {text for text in texts.values() if text.lower() not in NA_VALUES}
    integers = {text: _parse_integer(text) for text in present}
    if None in integers.values() or len(set(integers.values())) < len(integers):
        integers = {}
    return [integers.get(text) or text for text in map(texts.__getitem__, values)]


def to_text(value: object) -> str:
    """Return a cell as text, without blanks around it; bytes are decoded as UTF-8."""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()


def _parse_integer(text: str) -> str | None:
    """Return the integer that a text stands for, exactly, or None if it stands for something else."""
    if match := _WHOLE_NUMBER.fullmatch(text):
        return match[1]
    return str(int(Decimal(text))) if _WHOLE_EXPONENT.fullmatch(text) and float(text).is_integer() else None


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, as `read_text` does."""
    return read_text(path).splitlines()


def read_text(path: Path, encoding: str = "utf-8", option: str = "") -> str:
    """Read a text file.

    Args:
        path: the file
        encoding: of the text; a mark of it at the beginning of the file is left out
        option: that gives the encoding, for messages

    Raises:
        DataError: the file is empty, is not text or cannot be opened, or holds a control character
        OptionError: there is no such encoding
    """
    try:
        require_memory(4 * path.stat().st_size, f"{path}: its lines", "save the set as .npy files, or in several parts")
        text = path.read_text(encoding).removeprefix("\ufeff")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file that you may read") from None
    except LookupError:
        usual = "latin-1, cp1252, utf-16"
        raise OptionError(f"{option} {encoding}: Python has no such encoding; usual ones are {usual}") from None
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        likely = _find_encoding(path) if option else ""
        remedy = f", or give {option} {likely}" if likely not in ("", encoding) else ""
        raise DataError(f"{path}: not a text file in {encoding.upper()}; save it as UTF-8{remedy}")
    if control := _CONTROL_CHARACTER.search(text):
        line_number = text.count("\n", 0, control.start()) + 1
        raise DataError(f"{path}, line {line_number}: holds the control character {control[0]!r}; remove it")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; write or fetch it again")
    return text


def _find_encoding(path: Path) -> str:
    """Return the encoding that a text file probably has, if not UTF-8; empty if it is no text."""
    start = path.read_bytes()
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in start:
        return ""
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in start) else "latin-1"
