"""Reader of `.csv` with a header line: series, one per row or spread over rows that share an id, or a table.

`interpret.py` decides which, from the names of the columns and from their contents. Delimiters other than commas, and
decimal commas, are recognized where the file leaves no doubt, which a note says; an option decides where it does.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table, is_number, read_text
from tstk.data.memory import require_memory
from tstk.data.readers.frame import Frame, NumberFormat
from tstk.data.readers.interpret import interpret
from tstk.errors import DataError, OptionError

DELIMITERS = ",;\t|"
"""Delimiters that are recognized, the most common first."""

_NUM_SAMPLE_LINES = 50
"""Lines in which the delimiter is looked for."""

_DECIMAL_COMMA = r"^[-+]?\d{1,3}(\.\d{3})+,\d+$|^[-+]?(\d+|\d*,\d+([eE][-+]?\d+)?)$"
_CERTAIN_DECIMAL_COMMA = r"^[-+]?(|0|0\d+|\d{4,}),\d+$|,(\d{1,2}|\d{4,})$|\.\d{3},\d+$|,\d+[eE]"
"""Numbers whose comma cannot separate thousands."""


def read(
    path: Path,
    roles: ColumnRoles = ColumnRoles(),
    *,
    delimiter: str | None = None,
    decimal: Literal[".", ","] | None = None,
    thousands: str | None = None,
    encoding: str = "utf-8",
    header: bool = True,
    names: tuple[str, ...] = (),
    skip_lines: int = 0,
    comment: str | None = None,
    missing: tuple[str, ...] = (),
) -> dict[str, SeriesSet] | Table:
    r"""Read the series of one file, as split "train", or a table.

    Args:
        path: a text file
        roles: of columns, where names do not tell
        delimiter: character between cells, \t for a tab; that of the header if not given: a comma, semicolon, tab or |
        decimal: character before decimals; if not given a point, or a comma where the numbers leave no doubt
        thousands: character between groups of three digits, if there is one
        encoding: of the text, such as latin-1, cp1252 or utf-16
        header: whether the first line names the columns; if not, they are called 0, 1, ...
        names: names of the columns, in place of those of the header
        skip_lines: lines before the header, or before the first row if there is none
        comment: beginning of lines that are left out, such as #
        missing: cells that mean a missing value, such as -999, besides empty ones, NaN, NA, null and ?

    Raises:
        DataError: there is no header or no such label column, or a cell is not a number
        OptionError: an option contradicts another or the file
    """
    frame, _, notes = read_frame(
        path,
        delimiter=delimiter,
        decimal=decimal,
        thousands=thousands,
        encoding=encoding,
        header=header,
        names=names,
        skip_lines=skip_lines,
        comment=comment,
        missing=missing,
    )
    return _add_notes(interpret(frame, roles), path, notes)


def read_frame(
    path: Path,
    *,
    delimiter: str | None = None,
    decimal: Literal[".", ","] | None = None,
    thousands: str | None = None,
    encoding: str = "utf-8",
    header: bool = True,
    names: tuple[str, ...] = (),
    skip_lines: int = 0,
    comment: str | None = None,
    missing: tuple[str, ...] = (),
) -> tuple[Frame, Rows, list[str]]:
    """Read the columns of one file, its rows, and notes on how its text was read; arguments as of `read`."""
    number_format = _parse_number_format(delimiter, decimal, thousands)
    text = read_text(path, encoding, "--reader csv --reader.encoding")
    lines, numbers, num_comments = _select_lines(text, path, skip_lines, comment)
    delimiter = _parse_delimiter(delimiter) if delimiter else _find_delimiter(lines, path)
    rows = Rows(path, "".join(lines), numbers, delimiter, header)
    column_names = _name_columns(rows, names)
    num_rows, num_cells = len(lines), rows.text.count(delimiter)
    require_cell_memory(path, num_rows, num_cells + num_rows, 3 * len(rows.text))
    columns, num_missing = _clear_missing(_parse_columns(rows, len(column_names)), missing)
    frame = Frame(path, column_names, columns, rows.locate, number_format or NumberFormat(has_options=True))
    if number_format is None:
        frame.number_format = _infer_number_format(frame, rows)
    notes = [f"cells are separated by {delimiter!r}"] if delimiter != "," else []
    notes += [frame.number_format.describe()] if frame.number_format.describe() else []
    notes += [f"{num_missing:,} cells are missing, as they are {' or '.join(missing)}"] if missing else []
    notes += [f"{num_comments:,} lines are left out, as they begin with {comment!r}"] if comment else []
    return frame, rows, notes


def replace_cells(path: Path, cells: Mapping[tuple[int, str], float], num_rows: int, **options: Any) -> bytes | None:
    """Return a file with the numbers of some cells replaced, and all rows without one as they are.

    Args:
        path: a text file
        cells: (row below the header, name of a column) -> number
        num_rows: number of rows below the header that the file must have
        options: of the reader, as of `read`

    Returns:
        the bytes of the file, in its encoding; None if it has another number of rows, or no such column
    """
    frame, rows, _ = read_frame(path, **options)
    names = [name.strip() for name in frame.names]
    if len(frame.columns[0]) != num_rows or not {name.strip() for _, name in cells} <= set(names):
        return None
    encoding = options.get("encoding", "utf-8")
    if encoding == "utf-8" and path.read_bytes().startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    with path.open(encoding=encoding, newline="") as file:
        lines = file.read().splitlines(keepends=True)
    replaced: dict[int, dict[int, str]] = {}
    for (row, name), value in cells.items():
        replaced.setdefault(row + rows.has_header, {})[names.index(name.strip())] = frame.number_format.write(value)
    for i, (span, old) in enumerate(rows.iter_spans()):
        if new := replaced.get(i):
            buffer = io.StringIO()
            writer = csv.writer(buffer, delimiter=rows.delimiter, lineterminator="")
            writer.writerow([new.get(k, cell) for k, cell in enumerate(old)])
            end = lines[span[-1] - 1]
            lines[span[0] - 1] = buffer.getvalue() + end[len(end.rstrip("\r\n")) :]
            for number in span[1:]:  # a row with line breaks within its cells
                lines[number - 1] = ""
    return "".join(lines).encode(encoding)


@dataclass(frozen=True)
class Rows:
    """The text of a file, as rows of cells.

    Args:
        path: the file, for messages
        text: the lines of the header, if there is one, and of the rows
        numbers: number of each of these lines in the file, from 1
        delimiter: between cells
        has_header: whether the first row names the columns
    """

    path: Path
    text: str
    numbers: range | list[int]
    delimiter: str
    has_header: bool

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Iterate over the number of the line and the cells of each row, the header included."""
        return ((numbers[-1], row) for numbers, row in self.iter_spans())

    def iter_spans(self) -> Iterator[tuple[Sequence[int], list[str]]]:
        """Iterate over the numbers of the lines and the cells of each row, the header included."""
        reader = csv.reader(self.text.rstrip("\r\n").splitlines(keepends=True), delimiter=self.delimiter)
        num_columns = start = 0
        try:
            for row in reader:
                if row or num_columns == 1:
                    num_columns = num_columns or len(row)
                    yield self.numbers[start : reader.line_num], row or [""]
                start = reader.line_num
        except csv.Error as error:
            number = self.numbers[reader.line_num - 1]
            raise DataError(f"{self.path}, line {number}: not a line of CSV ({error}); fix or remove it") from None

    @property
    def first(self) -> tuple[int, list[str]]:
        """The number of the line and the cells of the first row."""
        return next(iter(self))

    def locate(self, row: int) -> str:
        """Return the file and line of a row below the header, for messages; of row -1, those of the header."""
        if (index := row + self.has_header) < 0:
            return str(self.path)
        return f"{self.path}, line {next(islice(self, index, None))[0]}"


def _parse_number_format(delimiter: str | None, decimal: str | None, thousands: str | None) -> NumberFormat | None:
    """Return how numbers are written, or None if no option says so.

    Raises:
        OptionError: two of the three characters are the same, or the third is none
    """
    if thousands is not None and (len(thousands) != 1 or thousands.isalnum() or thousands in "-+"):
        raise OptionError(f"--reader.thousands {thousands!r}: expected one character, such as . or ,")
    if decimal is None and thousands is None:
        return None
    decimal = decimal or ("," if thousands == "." else ".")
    if thousands == decimal:
        raise OptionError(
            f"--reader.thousands {thousands} and --reader.decimal {decimal} are the same; give one of them"
        )
    if delimiter is not None and delimiter == decimal:
        raise OptionError(
            f"--reader.delimiter {delimiter} and --reader.decimal {decimal} are the same, so no number can be read; "
            "cells are often separated by ;"
        )
    return NumberFormat(decimal, thousands or "", has_options=True)


def _parse_delimiter(text: str) -> str:
    delimiter = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise OptionError(f"--reader.delimiter {text!r}: expected one character, such as ';', or \\t for a tab")
    return delimiter


def _select_lines(
    text: str, path: Path, skip_lines: int, comment: str | None
) -> tuple[list[str], range | list[int], int]:
    """Return the lines that are not left out, the number of each in the file, and the number of comments."""
    lines = text.splitlines(keepends=True)
    if skip_lines >= len(lines):
        raise OptionError(f"--reader.skip-lines {skip_lines}: {path} has {len(lines)} lines")
    numbers: range | list[int] = range(skip_lines + 1, len(lines) + 1)
    if comment:
        numbers = [number for number in numbers if not lines[number - 1].startswith(comment)]
    num_comments = len(lines) - skip_lines - len(numbers)
    selected = [lines[number - 1] for number in numbers]
    while selected and not selected[0].strip():
        selected, numbers = selected[1:], numbers[1:]
    if not selected:
        raise DataError(f"{path}: every line is left out; check --reader.skip-lines and --reader.comment")
    return selected, numbers, num_comments


def _find_delimiter(lines: list[str], path: Path) -> str:
    """Return the delimiter that divides the header, and the rows into as many cells.

    Raises:
        DataError: there are several such characters
    """
    counts = {}
    for char in DELIMITERS:
        try:
            rows = [row for row in csv.reader(lines[:_NUM_SAMPLE_LINES], delimiter=char) if row]
        except csv.Error:
            continue
        if rows and len(rows[0]) > 1:
            counts[char] = {len(row) for row in rows}
    if len(counts) < 2:
        return next(iter(counts), ",")
    even = [char for char, sizes in counts.items() if len(sizes) == 1]
    if len(even) > 1:
        listed = " or ".join(map(repr, even))
        raise DataError(f"{path}: cells may be separated by {listed}; give --reader csv --reader.delimiter {even[1]!r}")
    return even[0] if even else next(iter(counts))


def _name_columns(rows: Rows, names: tuple[str, ...]) -> list[str]:
    """Return the names of the columns.

    Raises:
        DataError: the header holds numbers, or the number of names is another
    """
    _, cells = rows.first
    if names and len(names) != len(cells):
        raise DataError(f"{rows.path}: {len(names)} --reader.names for {len(cells)} columns; give one for each")
    if names or not rows.has_header:
        return list(names) or [str(i) for i in range(len(cells))]
    numbers = [float(name) for name in cells if is_number(name)]
    is_ascending = all(first < second for first, second in pairwise(numbers))  # such as 0, 0.02, 0.04, times of samples
    if len(numbers) == len(cells) or (2 * len(numbers) > len(cells) and not is_ascending):
        raise DataError(
            f"{rows.path}: the first line holds numbers; expected the names of the columns. If there are none: "
            "--reader csv --no-reader.header calls them 0, 1, ..., and --reader.names gives them names"
        )
    return cells


def require_cell_memory(path: Path, num_rows: int, num_cells: int, num_bytes: int) -> None:
    """Check that the cells of a file fit into memory, as text and as numbers.

    Args:
        path: the file, for messages
        num_rows: of the file
        num_cells: of the file
        num_bytes: of the text of all cells

    Raises:
        DataError: they take more than is available
    """
    require_memory(
        num_bytes + 32 * num_cells + 64 * num_rows,  # its offsets, float64, and float32 twice; the text of a label
        f"{path}: {num_rows:,} rows and {num_cells:,} cells",
        "save it as arrays (.npz or .npy), which take less, or in several parts",
    )


def _parse_columns(rows: Rows, num_columns: int) -> list[Any]:
    """Return the columns of cells below the header, as text."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    data = rows.text.strip("\r\n").encode()
    names = [str(i) for i in range(num_columns)]
    try:
        table = arrow_csv.read_csv(
            pyarrow.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=names, block_size=min(max(len(data) + 1, 2**20), 2**31 - 1)
            ),
            # a line of a single column may be empty because its cell is missing
            parse_options=arrow_csv.ParseOptions(
                delimiter=rows.delimiter, newlines_in_values=True, ignore_empty_lines=num_columns > 1
            ),
            convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string())),
        )
    except pyarrow.ArrowInvalid as error:
        raise _find_fault(rows, num_columns, str(error)) from None
    return [column.slice(int(rows.has_header)) for column in table.columns]


def _find_fault(rows: Rows, num_columns: int, reason: str) -> DataError:
    """Return the error that names the first line with another number of cells than the header."""
    first_line = rows.first[0]
    for line_number, row in rows:
        if len(row) != num_columns:
            hint = ""
            if len(row) > num_columns and (count := _count_preamble(rows.text.splitlines()[:_NUM_SAMPLE_LINES])):
                hint = f"; if the names of columns are in line {first_line + count}: --reader csv --reader.skip-lines "
                hint += str(first_line + count - 1)
            return DataError(
                f"{rows.path}, line {line_number}: {len(row)} cells, the header has {num_columns}; fix or remove the "
                f"row{hint}"
            )
    return DataError(f"{rows.path}: not a file of CSV ({reason}); fix it")


def _count_preamble(lines: list[str]) -> int:
    """Return the number of lines before those that a delimiter divides into equal numbers of cells; 0 if none does."""
    counts = []
    for char in DELIMITERS:
        sizes = [len(row) for row in csv.reader(lines, delimiter=char)]
        if sizes and sizes[-1] > 1:
            different = [i for i, size in enumerate(sizes, 1) if size != sizes[-1]]
            counts.append(different[-1] if different else 0)
    count = min(counts, default=0)
    is_header = count < len(lines) - 2 and not all(
        is_number(cell) for cell in re.split(f"[{DELIMITERS}]", lines[count])
    )
    return count if is_header else 0


def _clear_missing(columns: list[Any], missing: tuple[str, ...]) -> tuple[list[Any], int]:
    """Return columns whose cells are empty where they hold one of some texts, and the number of these cells."""
    if not missing:
        return columns, 0
    import pyarrow
    from pyarrow import compute

    values, cleared, count = pyarrow.array([text.strip() for text in missing]), [], 0
    for column in columns:
        is_missing = compute.is_in(compute.utf8_trim_whitespace(column), value_set=values)
        count += compute.sum(is_missing).as_py() or 0
        cleared.append(compute.if_else(is_missing, pyarrow.scalar(""), column))
    return cleared, count


def _infer_number_format(frame: Frame, rows: Rows) -> NumberFormat:
    """Return decimal commas if cells show them, and commas do not separate cells; else points.

    `1,5` has a decimal comma. `1,500` may be a number of thousands, and shows nothing.
    """
    from pyarrow import compute

    if rows.delimiter == "," or "," not in rows.text:
        return frame.number_format
    evidence, thousands = "", ""
    for name, column in zip(frame.names, frame.columns, strict=True):
        cells = compute.utf8_trim_whitespace(column)
        cells = cells.filter(compute.match_substring_regex(cells, r"\d"))  # which a missing one has not
        if not compute.all(compute.match_substring_regex(cells, _DECIMAL_COMMA)).as_py():
            continue
        if compute.any(compute.match_substring_regex(cells, _CERTAIN_DECIMAL_COMMA)).as_py():
            evidence = evidence or f", as in {name!r}"
            thousands = thousands or "." * bool(compute.any(compute.match_substring(cells, ".")).as_py())
    return NumberFormat(",", thousands, evidence, has_options=True) if evidence else frame.number_format


def _add_notes(data: dict[str, SeriesSet] | Table, path: Path, notes: list[str]) -> dict[str, SeriesSet] | Table:
    """Add notes on how the text was read to the data."""
    for part in [data] if isinstance(data, Table) else data.values():
        if notes:
            part.note = "; ".join(filter(None, (part.note, f"{path.name}: {', '.join(notes)}")))
    return data
