"""Where the parts of a table begin and end, and tables cut into series without labels, to pretrain on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tstk.data.catalog import PARTS
from tstk.data.containers import Raw, Table
from tstk.data.splits import borders
from tstk.errors import DataError, OptionError


def ends_of(tables: Mapping[str, Table], fraction: float) -> tuple[tuple[int, int, int], str]:
    """Rows of the table "train" at which training, validation and test end, and how that was decided.

    Args:
        tables: "train" and, where they exist, "val" and "test"
        fraction: share of the rows to validate on, if "test" is a table of its own and "val" is not
    """
    rows = len(tables["train"].values)
    if "test" in tables:
        cut = rows if "val" in tables else rows - round(fraction * rows)
        ends, split = (cut, rows, rows), f"test from {tables['test'].source}; {cut} of {rows} rows to train"
    else:
        ends, split = borders(tables["train"])
    if "val" in tables:
        ends = (ends[1], *ends[1:])  # rows that would have validated are trained on
        split = f"validation from {tables['val'].source}; {split}"
    return ends, split


def cut(tables: Mapping[str, Table], length: int, stride: int | None, fraction: float) -> dict[str, Raw]:
    """Each part of a table as series: split in time first, so that no series of one part reaches into another.

    Args:
        tables: "train" and, where they exist, "val" and "test"
        length: samples of a series
        stride: rows from one series of the training part to the next; None means `length`, so that none overlap
        fraction: as for `ends_of`

    Raises:
        OptionError: the length or the stride is less than 1
        DataError: a part has fewer rows than a series
    """
    for option, value in (("length", length), ("stride", stride)):
        if value is not None and value < 1:
            raise OptionError(f"--{option} {value}: expected at least 1")
    ends, _ = ends_of(tables, fraction)
    raws = {}
    for part, start, stop in zip(PARTS, (0, *ends), ends, strict=False):
        table = tables["train"]
        if part in tables and part != "train":
            table, where = tables[part], tables[part].source
        else:
            where = f"{table.source}, rows {start + 1} to {stop}"
            table = Table(table.values[start:stop], where, table.channels)
        raws[part] = windows_of(table, length, stride or length if part == "train" else length)
    return raws


def windows_of(table: Table, length: int, stride: int) -> Raw:
    """The series of `length` rows that begin every `stride` rows; those without any sample are left out.

    Raises:
        DataError: there are fewer rows than that
    """
    if len(table.values) < length:
        raise DataError(f"{table.source}: {len(table.values)} rows, and --length {length}; give less")
    x = np.lib.stride_tricks.sliding_window_view(table.values, length, axis=0)[::stride]
    some = ~np.isnan(x).all((1, 2))
    told = f"{table.source}: {(~some).sum()} series without a sample are left out" if not some.all() else ""
    return Raw(np.ascontiguousarray(x[some]), table.source, channels=table.channels, told=told)
