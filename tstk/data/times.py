"""Times of samples: parse the formats in which tables write them, and write later ones in the same format.

A column has one format, decided by all of its cells: ISO 8601, day.month.year, month/day/year, 20200131, seconds since
1970 or thousandths of them, or plain numbers. Times with an offset from UTC are kept as instants, so that the hour that
occurs twice in autumn is not a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tstk.errors import DataError

_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?", re.ASCII)
_DATE = re.compile(
    r"(\d{1,4})([-/.])(\d{1,2})(?:\2(\d{1,4}))?"
    r"(?:(T| +)(\d{1,2}):(\d\d)(?::(\d\d)(?:([.,])(\d{1,9}))?)?(?: *([AaPp][Mm]))?)?"
    r"( *)(Z|UTC|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
_COMPACT = re.compile(
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:([01]\d|2[0-3])[0-5]\d[0-5]\d)?", re.ASCII
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)

_EPOCH_UNITS = {"s": (1e8, 1e10), "ms": (1e11, 1e13), "us": (1e14, 1e16), "ns": (1e17, 9.2e18)}
"""Unit -> the range of numbers that are times since 1970 in this unit: 1973 (or a little before) to 2262 or later."""
_EPOCH_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True)
class TimeFormat:
    """How a column writes its times.

    Args:
        description: for messages, such as "ISO 8601" or "milliseconds since 1970"
        template: of `str.format`, with the fields of a date, or `n` for a number
        unit: of numbers since 1970; empty for dates and for plain numbers
        zone: time zone in which dates are written, such as "Europe/Berlin"; empty if only an offset is known
        offset: minutes from UTC in which dates are written, of the last row; 0 if they have none
        decimals: digits after the point
        column: its name
    """

    description: str
    template: str = "{n}"
    unit: str = ""
    zone: str = ""
    offset: int = 0
    decimals: int = 0
    column: str = ""

    def write(self, values: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> list[str]:
        """Write times as the column does.

        Args:
            values: [N], as `Times.values`
            offsets: [N] minutes from UTC in which to write each, if the column writes them; else those of the format
        """
        if values.dtype.kind != "M":
            return [self.template.format(n=f"{value:.{self.decimals}f}") for value in values.tolist()]
        if self.unit:
            return [self._write_number(value) for value in values.astype("datetime64[ns]").astype(np.int64).tolist()]
        if offsets is None or "{offset}" not in self.template:
            return [self._write_date(value) for value in values]
        return [self._write_date(value, offset) for value, offset in zip(values, offsets.tolist(), strict=True)]

    def get_offset(self, moment: datetime) -> int:
        """Return the minutes from UTC in which an instant is written."""
        if not self.zone:
            return self.offset
        fixed = re.fullmatch(r"([+-])(\d\d):(\d\d)", self.zone)
        if fixed:
            return int(f"{fixed[1]}1") * (60 * int(fixed[2]) + int(fixed[3]))
        shift = moment.astimezone(ZoneInfo(self.zone)).utcoffset()
        return int(shift.total_seconds()) // 60 if shift else 0

    def _write_number(self, nanoseconds: int) -> str:
        number = Decimal(nanoseconds) / {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[self.unit]
        return f"{number:.{self.decimals}f}"

    def _write_date(self, value: np.datetime64, offset: int | None = None) -> str:
        seconds = value.astype("datetime64[s]")
        fraction = int((value - seconds) / np.timedelta64(1, "ns")) if value != seconds else 0
        moment: datetime = seconds.astype(datetime).replace(tzinfo=UTC)
        offset = self.get_offset(moment) if offset is None else offset
        moment = datetime.fromtimestamp(moment.timestamp() + 60 * offset, UTC)
        return self.template.format(
            year=moment.year,
            month=moment.month,
            day=moment.day,
            hour=moment.hour,
            hour12=(moment.hour - 1) % 12 + 1,
            half="AM" if moment.hour < 12 else "PM",
            minute=moment.minute,
            second=moment.second,
            fraction=f"{fraction:09d}"[: self.decimals],
            offset=f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}",
        )


@dataclass
class Times:
    """The times of N rows.

    Args:
        values: [N] datetime64, instants in UTC if the cells have an offset; or float64, if they are plain numbers
        format: how the column writes them
        offsets: [N] minutes from UTC in which each is written, if they have an offset
    """

    values: NDArray[Any]
    format: TimeFormat
    offsets: NDArray[np.int64] | None = None

    def __getitem__(self, rows: slice | NDArray[Any]) -> Times:
        """Return the times of some rows."""
        return Times(self.values[rows], self.format, None if self.offsets is None else self.offsets[rows])

    def write(self) -> list[str]:
        """Return the times as the column writes them."""
        return self.format.write(self.values, self.offsets)

    @property
    def wall_times(self) -> NDArray[Any]:
        """The times [N] that clocks show, in which days are evenly spaced."""
        return self.values if self.offsets is None else self.values + self.offsets.astype("timedelta64[m]")


def parse_times(cells: Sequence[str], column: str, locate: Callable[[int], str], zone: str = "") -> Times:
    """Parse a column of times.

    Args:
        cells: N texts
        column: its name, for messages
        locate: returns the file and line of a row, for messages
        zone: the time zone of the column, if its cells are in UTC

    Raises:
        DataError: a cell is missing or not a time, or the order of day and month cannot be told
    """
    cells = [cell.strip() for cell in cells]
    if all(map(_ISO.fullmatch, cells)):
        times = _parse_iso(cells, column, locate)
    elif "" in cells:
        raise DataError(f"{locate(cells.index(''))}: no time in {column!r}; give it one, or remove the row")
    elif all(map(_NUMBER.fullmatch, cells)):
        times = _parse_numbers(cells)
    else:
        times = _parse_dates(cells, column, locate, zone)
    return replace(times, format=replace(times.format, column=column))


def is_date(cell: str) -> bool:
    """Return whether a text is a date, and not a plain number."""
    match = _DATE.fullmatch(cell.strip())
    if match is None or not (match[4] or (len(match[1]) == 4 and match[2] == "-" and len(match[3]) == 2)):
        return False
    return 4 in (len(match[1]), len(match[4] or ""))


def _fail(cells: Sequence[str], row: int, column: str, locate: Callable[[int], str]) -> DataError:
    return DataError(
        f"{locate(row)}: time {cells[row]!r} in {column!r} is neither a number nor a date such as 2020-12-31"
    )


def _parse_iso(cells: list[str], column: str, locate: Callable[[int], str]) -> Times:
    """Parse dates of ISO 8601 without an offset, which numpy does."""
    longest = max(cells, key=len)
    decimals = len(longest.partition(".")[2])
    try:
        values = np.array(cells, "datetime64[ns]" if decimals > 6 else "datetime64[us]")
    except ValueError:
        raise _fail(cells, _find_invalid(cells), column, locate) from None
    match = _DATE.fullmatch(longest)
    assert match is not None
    return Times(
        values, TimeFormat("ISO 8601", _build_template(match, ("year", "month", "day"), {}), decimals=decimals)
    )


def _find_invalid(cells: Sequence[str]) -> int:
    for row, cell in enumerate(cells):
        try:
            np.datetime64(cell, "us")
        except ValueError:
            return row
    return 0


def _parse_numbers(cells: list[str]) -> Times:
    """Parse numbers: dates without separators, times since 1970, or plain numbers such as seconds or rows."""
    if all(map(_COMPACT.fullmatch, cells)) and len(set(map(len, cells))) == 1:
        pattern = "%Y%m%d%H%M%S" if len(cells[0]) == 14 else "%Y%m%d"
        try:
            dates = [datetime.strptime(cell, pattern) for cell in cells]
        except ValueError:
            pass  # 20200231: not a date, so a number
        else:
            template = "{year:04}{month:02}{day:02}" + "{hour:02}{minute:02}{second:02}" * (len(cells[0]) == 14)
            description = "dates such as 20201231" + "235959" * (len(cells[0]) == 14)
            return Times(np.array(dates, "datetime64[us]"), TimeFormat(description, template))
    numbers = list(map(Decimal, cells))
    decimals = max(max(-int(number.as_tuple().exponent), 0) for number in numbers)
    low, high = min(map(abs, numbers)), max(map(abs, numbers))
    for unit, (start, stop) in _EPOCH_UNITS.items():
        if start <= low and high < stop:
            scale = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
            nanoseconds = [int(number * scale) for number in numbers]
            if max(map(abs, nanoseconds)) < 2**63:
                values = np.array(nanoseconds, np.int64).view("datetime64[ns]")
                return Times(values, TimeFormat(f"{_EPOCH_NAMES[unit]} since 1970", unit=unit, decimals=decimals))
    return Times(np.array(list(map(float, cells))), TimeFormat("numbers", decimals=decimals))


def _parse_dates(cells: list[str], column: str, locate: Callable[[int], str], zone: str) -> Times:
    """Parse dates with any separators, with or without times of day and offsets."""
    is_known = [is_date(cell) for cell in cells]
    if not all(is_known):
        unknown = (i for i, cell in enumerate(cells) if not is_known[i] and not _NUMBER.fullmatch(cell))
        raise _fail(cells, next(unknown, is_known.index(not is_known[0] if any(is_known) else False)), column, locate)
    parsed = [match for match in map(_DATE.fullmatch, cells) if match]
    order = _infer_order(parsed, column, locate)
    has_offset = [bool(match[13]) for match in parsed]
    if any(has_offset) and not all(has_offset):
        row = has_offset.index(False)
        raise DataError(
            f"{locate(row)}: time {cells[row]!r} in {column!r} has no offset from UTC, which other rows have; "
            "write it in all rows or in none"
        )
    decimals = max(len(match[10] or "") for match in parsed)
    unit = "ns" if decimals > 6 else "us"
    values = np.empty(len(cells), f"datetime64[{unit}]")
    offsets = np.zeros(len(cells), np.int64)
    for row, match in enumerate(parsed):
        try:
            values[row], offsets[row] = _to_instant(match, order, unit)
        except ValueError:
            raise _fail(cells, row, column, locate) from None
    template = _build_template(max(parsed, key=lambda m: len(m[0])), order, _find_padding(parsed))
    description = "ISO 8601" if order[0] == "year" and parsed[0][2] == "-" else parsed[0][2].join(order)
    if zone:
        template, description = template.replace("{utc}", "{offset}"), zone
    elif all(has_offset):
        description += " with offsets from UTC"
    last_suffix = parsed[-1][13] or ""
    template = template.replace("{utc}", last_suffix if last_suffix in ("Z", "UTC") else "{offset}")
    format_ = TimeFormat(description, template, zone=zone, offset=int(offsets[-1]), decimals=decimals)
    if zone:
        seconds = values.astype("datetime64[s]").astype(datetime)
        offsets = np.array([format_.get_offset(moment.replace(tzinfo=UTC)) for moment in seconds])
    return Times(values, format_, offsets if all(has_offset) else None)


def _infer_order(parsed: Sequence[re.Match[str]], column: str, locate: Callable[[int], str]) -> tuple[str, str, str]:
    """Return the order of year, month and day in a column.

    Raises:
        DataError: the rows disagree, or day and month could be either
    """
    first_row = {len(match[1]) == 4: row for row, match in reversed(list(enumerate(parsed)))}
    if len(first_row) == 2:
        row = max(first_row.values())
        raise DataError(
            f"{locate(row)}: time {parsed[row][0]!r} in {column!r} is written in another order than in the rows "
            "above; write all as 2020-12-31"
        )
    if first_row.popitem()[0]:
        return ("year", "month", "day")
    first, second = (np.array([int(match[i]) for match in parsed]) for i in (1, 3))
    if (first > 12).any() and (second > 12).any():
        row = max(int((first > 12).argmax()), int((second > 12).argmax()))
        raise DataError(
            f"{locate(row)}: {parsed[row][0]!r} in {column!r} is written in another order of day and month than the "
            "rows above; write all as 2020-12-31"
        )
    if (first > 12).any() or (parsed[0][2] == "." and not (second > 12).any()):
        return ("day", "month", "year")
    if (second > 12).any():
        return ("month", "day", "year")
    raise DataError(
        f"{locate(0)}: {parsed[0][0]!r} in {column!r} may be day{parsed[0][2]}month or month{parsed[0][2]}day, "
        "and no row tells; write dates as 2020-12-31"
    )


def _to_instant(match: re.Match[str], order: tuple[str, str, str], unit: str) -> tuple[np.datetime64, int]:
    """Return a time, in UTC if it has an offset, and the offset in minutes.

    Raises:
        ValueError: there is no such day or time
    """
    parts = dict(zip(order, (match[1], match[3], match[4] or "1"), strict=True))
    hour = int(match[6] or 0)
    if match[11]:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + 12 * (match[11].lower() == "pm")
    moment = datetime(
        int(parts["year"]), int(parts["month"]), int(parts["day"]), hour, int(match[7] or 0), int(match[8] or 0)
    )
    offset = 0
    if (suffix := match[13] or "Z") not in ("Z", "UTC"):
        digits = suffix[1:].replace(":", "").ljust(4, "0")
        offset = (60 * int(digits[:2]) + int(digits[2:])) * (-1 if suffix[0] == "-" else 1)
    value = np.datetime64(moment, "s").astype(f"datetime64[{unit}]")
    value += np.timedelta64(int((match[10] or "").ljust(9, "0")), "ns").astype(f"timedelta64[{unit}]")
    return value - np.timedelta64(60 * offset, "s"), offset


def _find_padding(parsed: Sequence[re.Match[str]]) -> dict[int, str]:
    """Return the groups of the pattern whose numbers are written without leading zeros, and their format."""
    return {i: "" for i in (1, 3, 4, 6) if any(len(match[i] or "00") == 1 for match in parsed)}


def _build_template(match: re.Match[str], order: tuple[str, str, str], padding: dict[int, str]) -> str:
    """Return the template that writes a date as this one is written; `{utc}` stands for its offset."""

    def field(group: int, name: str) -> str:
        return f"{{{name}:{padding.get(group, '04' if name == 'year' else '02')}}}"

    text = field(1, order[0]) + match[2] + field(3, order[1])
    if match[4]:
        text += match[2] + field(4, order[2])
    if match[6]:
        text += match[5] + field(6, "hour12" if match[11] else "hour") + ":{minute:02}"
        text += ":{second:02}" * bool(match[8])
        text += f"{match[9]}{{fraction}}" if match[10] else ""
        text += " {half}" * bool(match[11])
    return text + (match[12] + "{utc}" if match[13] else "")


def infer_step(times: Times) -> Any:
    """Return the step of times that are evenly spaced: a timedelta64, also in months, or a float; else None.

    Days and months are counted by the clock, so they may have 23 or 25 hours.
    """
    values = times.values
    if len(values) < 2:
        return None
    steps = np.diff(values)
    if values.dtype.kind != "M":
        even = steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)
        return float((values[-1] - values[0]) / len(steps)) if even else None
    wall_times = times.wall_times
    if (shift := _find_month_shift(wall_times)) is not None:
        return np.diff((wall_times + shift).astype("datetime64[M]"))[0]
    day, wall_steps = np.timedelta64(1, "D"), np.diff(wall_times)
    if (wall_steps == wall_steps[0]).all() and wall_steps[0] >= day and wall_steps[0] % day == np.timedelta64(0):
        return wall_steps[0].astype("timedelta64[D]")
    return steps[0] if (steps == steps[0]).all() and steps[0] > np.timedelta64(0) else None


def _find_month_shift(wall_times: NDArray[Any]) -> np.timedelta64 | None:
    """Return the days to add for all times to be on the same day of evenly spaced months, or None."""
    for shift in (np.timedelta64(0, "D"), np.timedelta64(1, "D")):  # the same day of each month, or the last one
        months = (wall_times + shift).astype("datetime64[M]")
        rest, steps = wall_times + shift - months, np.diff(months)
        if (rest == rest[0]).all() and (steps == steps[0]).all() and steps[0] > np.timedelta64(0):
            return shift
    return None


def continue_times(times: Times, count: int) -> list[str] | None:
    """Return the `count` times after the last one, as the column writes them; None unless they are evenly spaced."""
    step, values = infer_step(times), times.values
    if step is None:
        return None
    steps = step * np.arange(1, count + 1)
    if not isinstance(step, np.timedelta64) or np.datetime_data(step.dtype)[0] not in "MD":
        return times.format.write(values[-1] + steps)
    wall_times = times.wall_times
    if np.datetime_data(step.dtype)[0] == "D":
        wall_times = wall_times[-1] + steps
    else:
        shift = _find_month_shift(wall_times)
        months = (wall_times[-1] + shift).astype("datetime64[M]")
        wall_times = (months + steps).astype(values.dtype) + (wall_times[-1] - months)
    return times.format.write(_to_instants(wall_times, times.format))


def continue_rows(times: Times, count: int) -> list[str] | None:
    """Return the `count` times after the last one, see `continue_times`; those before the last gap need not be even.

    None if there are gaps at more than a tenth of the rows, such as the weekends of business days.
    """
    if measured := measure_steps(times):
        gaps = np.flatnonzero(measured[0] != 1)
        if len(gaps) > len(times.values) / 10:
            return None
        times = times[int(gaps[-1]) + 1 :]
    return continue_times(times, count)


def _to_instants(wall_times: NDArray[Any], format_: TimeFormat) -> NDArray[Any]:
    """Return instants in UTC, whose offset is that of the same time in UTC, corrected once."""
    moments = wall_times
    for _ in range(2):
        seconds = moments.astype("datetime64[s]").astype(datetime)
        offsets = [format_.get_offset(moment.replace(tzinfo=UTC)) for moment in seconds]
        moments = wall_times - np.array(offsets, "timedelta64[m]")
    return moments


Step = tuple[float, str]
"""A step and its unit, as `_get_axis` names it."""

MAX_STEP_RATIO = 1.2
"""Ratio up to which two steps count as equal: months differ by less, and so do clocks that are not exact."""


def measure_steps(times: Times, common_step: Step | None = None) -> tuple[NDArray[np.float64], str] | None:
    """Return the distance of each row from the one before it, in steps [N - 1], and the step as text.

    None if all steps are equal, or there is none.

    Args:
        times: of N rows
        common_step: the step, also if all are equal; if not given, the most frequent one
    """
    if len(times.values) < 2 or (common_step is None and infer_step(times) is not None):
        return None
    if (common_step := common_step or find_step([times])) is None:
        return None
    step, unit = common_step
    steps = np.diff(_get_axis(times, unit)[0])
    counts = steps / step
    rounded = np.round(counts)
    counts = np.where(np.abs(counts - rounded) < 1e-3 * np.maximum(rounded, 1), rounded, counts)
    return counts, format_step(common_step)


def find_step(parts: Sequence[Times]) -> Step | None:
    """Return the most frequent step of the times of one or several series; None if there is none.

    Steps in plain numbers may vary a little, so theirs is the median.
    """
    parts = [times for times in parts if len(times.values) > 1]
    units = {_get_axis(times)[1] for times in parts}
    if not units:
        return None
    unit = units.pop() if len(units) == 1 else "us"
    steps = np.concatenate([np.diff(_get_axis(times, unit)[0]) for times in parts])
    positive = steps[steps > 0]
    if not len(positive):
        return None
    if not unit:
        return float(np.median(positive)), unit
    unique, numbers = np.unique(positive, return_counts=True)
    return float(unique[numbers.argmax()]), unit


def measure_median_step(times: Times) -> Step | None:
    """Return the median step of times, in microseconds or plain numbers; None if less than half of them are near it."""
    is_date = times.values.dtype.kind == "M"
    values = times.values.astype("datetime64[us]").astype(np.int64) if is_date else times.values
    steps = np.diff(values)
    if not len(steps) or (median := float(np.median(steps))) <= 0:
        return None
    is_near = np.abs(steps - median) <= (MAX_STEP_RATIO - 1) * median
    return (median, "us" if is_date else "") if 2 * is_near.sum() >= len(steps) else None


def is_same_step(first: Step, second: Step) -> bool:
    """Return whether two steps are about equal; those of which one is in plain numbers cannot be compared, and are."""
    low, high = sorted((first[0], second[0]))
    return first[1] != second[1] or high <= MAX_STEP_RATIO * low


def _get_axis(times: Times, unit: str | None = None) -> tuple[NDArray[Any], str]:
    """Return numbers [N] in which times are measured, and their unit: "M", "us", or empty for plain numbers.

    Months and days are counted by the clock: whole days apart are microseconds of the clock, unit "D", as a day of a
    change of the clock has 23 or 25 hours.

    Args:
        times: of N rows
        unit: the unit; that which fits if not given
    """
    if times.values.dtype.kind != "M":
        return times.values, ""
    months = times.wall_times.astype("datetime64[M]")
    rest = times.wall_times - months
    if unit == "M" or (unit is None and (rest == rest[0]).all() and (np.diff(months) != np.timedelta64(0)).any()):
        return months.astype(np.int64), "M"
    whole_days = (np.diff(times.wall_times) % np.timedelta64(1, "D") == np.timedelta64(0)).all()
    if unit == "D" or (unit is None and times.offsets is not None and whole_days):
        return times.wall_times.astype("datetime64[us]").astype(np.int64), "D"
    return times.values.astype("datetime64[us]").astype(np.int64), "us"


def format_step(step: Step) -> str:
    """Return a step as text, such as "15 min"."""
    size, unit = step
    if unit == "M":
        return f"{size:g} months"
    if not unit:
        return f"{size:g}"
    for name, length in (("days", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000)):
        if size >= length:
            return f"{size / length:g} {name}"
    return f"{size / 1000:g} ms"


def insert_times(times: Times, positions: NDArray[np.int64], unit: str | None = None) -> Times:
    """Return times with those between them inserted.

    Args:
        times: N of them, a whole number of steps apart
        positions: [N] place of each in the result, ascending from 0
        unit: of their steps; that which fits if not given
    """
    places = np.arange(int(positions[-1]) + 1)
    axis, unit = _get_axis(times, unit)
    if not unit:
        return Times(np.interp(places, positions, times.values), times.format)
    before = np.searchsorted(positions, places, side="right") - 1
    dtype, offsets = times.values.dtype, None if times.offsets is None else times.offsets[before]
    if unit == "M":
        months = np.interp(places, positions, axis).round().astype(np.int64).astype("datetime64[M]")
        first = times.wall_times[0]
        wall_times = months.astype(dtype) + (first - first.astype("datetime64[M]"))
    else:
        numbers = (times.wall_times if unit == "D" else times.values).astype(np.int64)
        after = np.minimum(before + 1, len(positions) - 1)
        gaps = np.maximum(positions[after] - positions[before], 1)
        steps = (numbers[after] - numbers[before]) // gaps * (places - positions[before])
        wall_times = (numbers[before] + steps).view(dtype)
    if unit == "us" or offsets is None:
        return Times(wall_times, times.format, offsets)
    if times.format.zone:
        values = _to_instants(wall_times, times.format)
        return Times(values, times.format, (wall_times - values).astype("timedelta64[m]").astype(np.int64))
    return Times(wall_times - offsets.astype("timedelta64[m]"), times.format, offsets)


def join_times(parts: Sequence[Times], source: str) -> Times:
    """Return the times of several tables, one after the other.

    Raises:
        DataError: the tables write their times differently
    """
    descriptions = list(dict.fromkeys(times.format.description for times in parts))
    has_offsets = {times.offsets is not None for times in parts}
    if len(descriptions) > 1 or len(has_offsets) > 1:
        raise DataError(
            f"{source}: its files write times differently ({' and '.join(descriptions)}, with and without an offset "
            "from UTC counting as two); write them alike"
        )
    offsets = np.concatenate([t.offsets for t in parts if t.offsets is not None]) if True in has_offsets else None
    return Times(np.concatenate([times.values for times in parts]), parts[0].format, offsets)
