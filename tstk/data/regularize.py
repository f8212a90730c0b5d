"""Rows of tables that are missing, repeated or between two times: they are said, and missing ones can be inserted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tstk.data.containers import Table
from tstk.data.memory import require_memory
from tstk.data.times import Times, insert_times, measure_steps
from tstk.errors import DataError, OptionError


def describe_uneven_times(table: Table) -> list[str]:
    """Return a sentence for each way in which the times of a table are uneven: repeated, missing or in between."""
    if table.times is None or (measured := measure_steps(table.times)) is None:
        return []
    counts, step = measured
    is_whole = counts == np.round(counts)
    lines = []
    for is_bad, fault, remedy in (
        (counts == 0, "repeats the time of the row above", "rows are used as they stand"),
        (is_whole & (counts > 1), "follows a gap", "windows run over it; --regularize inserts missing rows"),
        (~is_whole, f"is not a whole number of steps of {step} after the row above", "rows are used as evenly spaced"),
    ):
        if num := int(is_bad.sum()):
            row = int(is_bad.argmax()) + 1
            more = f" (and {num - 1:,} more)" if num > 1 else ""
            lines.append(f"{table.source}: row {row + 1}{more} {fault}, time {_write(table.times, row)}; {remedy}")
    return lines


def insert_missing_rows(table: Table) -> Table:
    """Insert a row without samples for each time that is missing, so that times are evenly spaced.

    Raises:
        OptionError: the table has no times
        DataError: a time repeats, or is not a whole number of steps after the one before it
    """
    if table.times is None:
        raise OptionError(f"--regularize: {table.source} has no column of times; give --time-column")
    if (measured := measure_steps(table.times)) is None:
        return table
    counts, step = measured
    is_bad = (counts == 0) | (counts != np.round(counts))
    if is_bad.any():
        row = int(is_bad.argmax()) + 1
        fault = "repeats the time of the row above" if counts[row - 1] == 0 else f"is {counts[row - 1]:.3g} steps later"
        raise DataError(
            f"--regularize: {table.source}: row {row + 1}, time {_write(table.times, row)}, {fault}, and steps are "
            f"{step}; give each time one row, or average the rows of each step"
        )
    positions = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    num_rows = int(positions[-1]) + 1
    num_bytes = 16 * num_rows * (table.values.shape[1] + 1)
    require_memory(
        num_bytes, f"{table.source}: {num_rows:,} rows, with those that --regularize inserts,", "cut the file"
    )
    values = np.full((num_rows, table.values.shape[1]), np.nan, table.values.dtype)
    values[positions] = table.values
    note = f"{num_rows - len(positions):,} missing rows are inserted without samples, so that steps are {step}"
    times = insert_times(table.times, positions)
    return replace(table, values=values, times=times, note="; ".join(filter(None, (table.note, note))))


def _write(times: Times, row: int) -> str:
    return times.format.write(times.values[row : row + 1])[0]
