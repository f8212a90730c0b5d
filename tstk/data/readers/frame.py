"""The columns of a file or of a data frame: exact text, numbers or times of each, by index.

Cells are kept by pyarrow: those of text files as the text they hold, those of parquet files with their types.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import NA_VALUES, to_text
from tstk.data.times import Times, is_date, parse_times
from tstk.errors import DataError, did_you_mean

_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d(?:\.\d{1,9})?)?", re.ASCII)
_LETTER = re.compile(r"[^\W\d_]")
_SEPARATORS = ".,' \u00a0\u202f"
"""Characters before decimals or between thousands, in any language."""
_INDEX_NAME = re.compile(r"|Unnamed: \d+|__index_level_\d+__|index", re.ASCII)
"""Names under which pandas and R write the index of rows."""


@dataclass(frozen=True)
class NumberFormat:
    """How the text of a file writes numbers.

    Args:
        decimal: character before decimals
        thousands: character between groups of three digits, or empty
        evidence: what shows it, for messages; empty for the default or if the user says so
        has_options: whether the reader has options for the two characters
    """

    decimal: str = "."
    thousands: str = ""
    evidence: str = ""
    has_options: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as Python writes them."""
        return self.decimal == "." and not self.thousands

    @property
    def pattern(self) -> str:
        """The regular expression of a number that has digits."""
        decimal, thousands = re.escape(self.decimal), re.escape(self.thousands)
        whole = rf"\d{{1,3}}(?:{thousands}\d{{3}})+|\d*" if thousands else r"\d*"
        return rf"^[-+]?(?:{whole})(?:{decimal}\d*)?(?:[eE][-+]?\d+)?$"

    def to_plain(self, cell: str) -> str:
        """Return a number as Python writes it, and any other text unchanged."""
        if self.is_plain or not re.search(self.pattern, cell, re.ASCII):
            return cell
        return (cell.replace(self.thousands, "") if self.thousands else cell).replace(self.decimal, ".")

    def write(self, number: float) -> str:
        """Return a number as the file writes its decimals, without thousands."""
        return str(number).replace(".", self.decimal)

    def describe(self) -> str:
        """Return a phrase on what differs from the usual way; empty if nothing does."""
        if self.is_plain:
            return ""
        thousands = f" and {self.thousands!r} between thousands" if self.thousands else ""
        return f"numbers have {self.decimal!r} before decimals{thousands}{self.evidence}"

    def explain(self, cell: str) -> str:
        """Return what is wrong with a cell that is not a number, and the remedy."""
        point = f"a {'point' if self.decimal == '.' else 'comma'}{self.evidence}"
        fault = f"{cell.strip()!r} is not a number; decimals take {point}"
        if not self.has_options:
            return f"{fault}, a missing value is ? or NaN"
        separators = [c for c in cell.strip() if c in _SEPARATORS and c not in (self.decimal, self.thousands)]
        if separators and re.fullmatch(rf"[-+]?[\d{_SEPARATORS}]+", cell.strip()):
            char = separators[0]
            other = f"--reader.decimal {char!r}, or " if char in ".," else ""
            text = repr(char) if char.isascii() else f"$'\\u{ord(char):04x}'"  # as a shell takes it
            return f"{fault}. If not so here: --reader csv {other}--reader.thousands {text}"
        return f"{fault}, a missing value is ? or NaN, or what --reader csv --reader.missing names"


class Frame:
    """Columns of cells, all of the same number of rows.

    Args:
        path: the file, for messages
        names: of the columns
        columns: a `pyarrow.ChunkedArray` for each
        locate: returns file and line of a row, for messages; of row -1, those of the header
        number_format: of columns of text
        is_for_model: a trained model has decided on the roles of columns, which need no note then

    Raises:
        DataError: there are no rows, or two columns have the same name
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        columns: Sequence[Any],
        locate: Callable[[int], str],
        number_format: NumberFormat = NumberFormat(),
        is_for_model: bool = False,
    ) -> None:
        self.is_for_model = is_for_model
        self.path, self.columns, self.locate, self.number_format = path, columns, locate, number_format
        self.names = [name.strip() for name in names]
        self.lower_names = [name.lower() for name in self.names]
        self.num_rows = len(columns[0]) if columns else 0
        self._numbers: dict[int, NDArray[np.float64] | None] = {}
        repeated = [name for name, count in Counter(self.lower_names).items() if count > 1]
        if repeated:
            raise DataError(f"{locate(-1)}: two columns are called {repeated[0]!r}; rename or remove one")
        if not self.num_rows:
            raise DataError(f"{path}: no line after the header; add the rows of data")

    def get_place(self, row: int) -> str:
        """Return the line of a row, without the file, for messages."""
        return self.locate(row).removeprefix(str(self.path)).lstrip(", ")

    def has(self, name: str) -> bool:
        """Return whether there is a column of this name, in any case."""
        return name.strip().lower() in self.lower_names

    def find(self, name: str, option: str) -> int:
        """Return the index of a column that the user names, in any case if it is the only one.

        Raises:
            DataError: there is no such column
        """
        if name in self.names:
            return self.names.index(name)
        if name.strip().lower() in self.lower_names:
            return self.lower_names.index(name.strip().lower())
        message = f"{self.path}: no column called {name!r} ({option}).{did_you_mean(name, self.names)}"
        raise DataError(message, option, name)

    def is_nested(self, index: int) -> bool:
        """Return whether the cells of a column are lists."""
        from pyarrow import types

        return bool(types.is_nested(self.columns[index].type))

    def is_unnamed_index(self, index: int) -> bool:
        """Return whether a column has a name under which programs write the numbers of rows."""
        name = self.names[index]
        return bool(_INDEX_NAME.fullmatch(name)) and (name != "index" or self.counts_rows(index))

    def get_text(self, index: int) -> list[str]:
        """Return the cells of a column as text, exactly; missing ones are empty."""
        import pyarrow
        from pyarrow import types

        column = self.columns[index]
        if types.is_timestamp(column.type):
            for unit in ("us", "ms", "s"):
                try:
                    column = column.cast(pyarrow.timestamp(unit, column.type.tz))
                except pyarrow.ArrowInvalid:
                    break  # finer than this unit
            column = column.cast(pyarrow.string())
        texts: dict[Any, str] = {}  # equal cells are one object
        return [
            texts.get(cell) or texts.setdefault(cell, "" if cell is None else to_text(cell))
            for cell in column.to_pylist()
        ]

    def get_numbers(self, index: int) -> NDArray[np.float64] | None:
        """Return the cells of a column as numbers [N], NaN where missing; None if some are not numbers."""
        if index not in self._numbers:
            self._numbers[index] = _to_numbers(self.columns[index], self.number_format)
        return self._numbers[index]

    def is_text(self, index: int) -> bool:
        """Return whether a column holds text: cells with letters, none of which is a number."""
        if self.get_numbers(index) is not None:
            return False
        present = [cell for cell in self.get_text(index) if cell.lower() not in NA_VALUES]
        return not any(map(self._is_number, present)) and any(map(_LETTER.search, present))

    def is_integer(self, index: int) -> bool:
        """Return whether a column holds whole numbers, none of them missing."""
        numbers = self.get_numbers(index)
        return numbers is not None and bool((numbers == np.round(numbers)).all())

    def is_empty(self, index: int) -> bool:
        """Return whether all cells of a column are missing."""
        numbers = self.get_numbers(index)
        return numbers is not None and bool(np.isnan(numbers).all())

    def counts_rows(self, index: int) -> bool:
        """Return whether a column holds consecutive whole numbers, such as those of the rows, in any order."""
        numbers = self.get_numbers(index)
        if numbers is None or self.num_rows < 3 or not self.is_integer(index):
            return False
        if numbers.max() - numbers.min() != self.num_rows - 1:
            return False
        return bool((np.sort(numbers) == numbers.min() + np.arange(self.num_rows)).all())

    def ascends(self, index: int) -> bool:
        """Return whether a column holds numbers that never decrease."""
        numbers = self.get_numbers(index)
        return numbers is not None and bool((np.diff(numbers) >= 0).all())

    def get_samples(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Return the cells of columns as numbers [N, K], NaN where missing.

        Raises:
            DataError: a cell is not a number
        """
        import pyarrow
        from pyarrow import types

        columns = [self.columns[i] for i in indices]
        if all(types.is_string(column.type) for column in columns) and len(columns) > 8:  # one call for all
            cells = pyarrow.chunked_array([chunk for column in columns for chunk in column.chunks])
            numbers = _to_numbers(cells, self.number_format)
            if numbers is not None:
                return numbers.reshape(len(columns), -1).T
        for i in indices:
            if self.get_numbers(i) is None:
                for row, cell in enumerate(self.get_text(i)):
                    if not self._is_number(cell):
                        raise DataError(f"{self.locate(row)}: {self.number_format.explain(cell)}")
                raise DataError(f"{self.path}: column {self.names[i]!r} holds {self.columns[i].type}; expected numbers")
        return np.stack([self._numbers[i] for i in indices], 1)  # type: ignore[misc]

    def has_dates(self, index: int) -> bool:
        """Return whether the first cell of a column is a date, and not a plain number."""
        from pyarrow import types

        type_ = self.columns[index].type
        if types.is_timestamp(type_) or types.is_date(type_):
            return True
        cell = self.columns[index][0].as_py()
        return isinstance(cell, str) and is_date(cell)

    def has_clock(self, index: int) -> bool:
        """Return whether the first cell of a column is a time of day, such as 13:05."""
        cell = self.columns[index][0].as_py()
        return _CLOCK.fullmatch(str(cell).strip()) is not None

    def get_times(self, index: int, clock: int | None = None) -> Times:
        """Parse the cells of a column as times.

        Args:
            index: the column
            clock: a column of times of day, if the first one holds dates alone

        Raises:
            DataError: a cell is not a time
        """
        zone = getattr(self.columns[index].type, "tz", None) or ""
        cells = self.get_text(index)
        if clock is not None:
            cells = [f"{date} {time}" for date, time in zip(cells, self.get_text(clock), strict=True)]
        cells = [self.number_format.to_plain(cell) for cell in cells]
        return parse_times(cells, self.names[index], self.locate, zone)

    def _is_number(self, cell: str) -> bool:
        """Return whether a cell is a number, or missing."""
        text = cell.strip()
        if not self.number_format.is_plain and not re.search(self.number_format.pattern, text, re.ASCII):
            return text.lower() in NA_VALUES
        try:
            float(self.number_format.to_plain(text))
        except ValueError:
            return text.lower() in NA_VALUES
        return True


def _to_numbers(column: Any, number_format: NumberFormat) -> NDArray[np.float64] | None:
    """Convert a column to float64 [N], NaN where missing; None if a cell is not a number."""
    import pyarrow
    from pyarrow import compute, types

    type_ = column.type
    if types.is_dictionary(type_):
        column = column.cast(type_.value_type)
        type_ = column.type
    if types.is_string(type_) or types.is_large_string(type_):
        text = compute.utf8_trim_whitespace(column)
        is_missing = compute.is_in(compute.utf8_lower(text), value_set=pyarrow.array(sorted(NA_VALUES), type_))
        text = compute.if_else(is_missing, pyarrow.scalar(None, type_), text)
        if not number_format.is_plain:
            if not compute.all(compute.match_substring_regex(text, number_format.pattern)).as_py():
                return None
            if number_format.thousands:
                text = compute.replace_substring(text, number_format.thousands, "")
            text = compute.replace_substring(text, number_format.decimal, ".")
        try:
            column = text.cast(pyarrow.float64())
        except pyarrow.ArrowInvalid:
            try:  # spellings that Python takes and pyarrow does not
                return np.array([np.nan if cell is None else float(cell) for cell in text.to_pylist()])
            except ValueError:
                return None
    elif any(check(type_) for check in (types.is_integer, types.is_floating, types.is_decimal, types.is_null)):
        column = column.cast(pyarrow.float64(), safe=False)
    elif types.is_boolean(type_):
        column = column.cast(pyarrow.int8()).cast(pyarrow.float64())
    else:
        return None
    return np.asarray(column.to_numpy(), np.float64)
