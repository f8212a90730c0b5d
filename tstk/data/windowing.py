"""Divide the rows of tables into splits, and cut tables into unlabelled series to pretrain on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tstk.data.catalog import DEFAULT_VAL_FRACTION, SPLITS
from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet, Table
from tstk.data.memory import require_memory
from tstk.data.segmentation import cut_recordings, table_to_series
from tstk.data.splits import split_boundaries
from tstk.errors import DataError


def resolve_split_boundaries(tables: Mapping[str, Table], config: DataConfig) -> tuple[tuple[int, int, int], str]:
    """Return the rows of the table "train" at which training, validation and test end, and a description of the split.

    Args:
        tables: "train" and, where they exist, "val" and "test"
        config: `test_fraction`, or `folds` and `fold`, where "test" is no table of its own; `val_fraction` is the
            fraction of the other rows to validate on, if there is a test split by these or of its own, and no "val"

    Raises:
        OptionError: `val_fraction` is given and cannot take effect
    """
    num_rows = len(tables["train"].values)
    count = tables["train"].count_file_rows
    if config.test_fraction is not None or config.folds is not None:
        if "test" in tables:
            config.reject(f"here: there is a test split, {tables['test'].source}", "test_fraction", "folds")
        ends, description = _hold_out_rows(tables["train"], "val" in tables, config)
    elif "test" in tables:
        val_fraction = DEFAULT_VAL_FRACTION if config.val_fraction is None else config.val_fraction
        train_end = num_rows if "val" in tables else num_rows - round(val_fraction * num_rows)
        ends = (train_end, num_rows, num_rows)
        description = f"test from {tables['test'].source}; {count(train_end)} of {count(num_rows)} rows to train"
    else:
        ends, description = split_boundaries(tables["train"])
    if "val" in tables:
        ends = (ends[1], *ends[1:])  # the rows that are not needed for validation are trained on
        description = f"validation from {tables['val'].source}; {description}"
    if "val" in tables or ("test" not in tables and config.test_fraction is None and config.folds is None):
        train = tables["train"]
        kind = "a table" if train.name is None else "series, each divided in time"
        config.reject(f"here: {train.source} is {kind} ({description}); --val-fraction none unsets it", "val_fraction")
    return ends, description


def _hold_out_rows(table: Table, has_val: bool, config: DataConfig) -> tuple[tuple[int, int, int], str]:
    """Return the rows at which training, validation and test end, and a description.

    The test rows are the last ones, or those of a fold: of K + 1 blocks of rows the last K are folds, and those before
    a fold are trained and validated on, so no model sees the future of its test rows.
    """
    num_rows, count = len(table.values), table.count_file_rows
    if config.folds is not None:
        assert config.fold is not None
        size = num_rows // (config.folds + 1)
        test_end = num_rows - (config.folds - config.fold) * size
        title = f"test: fold {config.fold} of {config.folds} in time"
    else:
        assert config.test_fraction is not None
        size, test_end, title = round(config.test_fraction * num_rows), num_rows, "test"
    test_start = test_end - size
    val_fraction = DEFAULT_VAL_FRACTION if config.val_fraction is None else config.val_fraction
    train_end = test_start if has_val else test_start - round(val_fraction * test_start)
    description = (
        f"{title}: rows {count(test_start) + 1} to {count(test_end)} of {count(num_rows)}; the first "
        f"{count(train_end)} to train"
    )
    return (train_end, test_start, test_end), description


def cut_tables(tables: Mapping[str, Table], config: DataConfig) -> dict[str, SeriesSet]:
    """Cut each split of a table into series. The rows are split first, so that no series crosses a split boundary.

    With a class per row, the windows of a split cover all of its rows, and the last one may be shorter.

    Args:
        tables: "train" and, where they exist, "val" and "test"
        config: `length` is the number of samples per series; `stride` the number of rows from one training series to
            the next, `length` if None, so that none overlap; `val_fraction` as for `resolve_split_boundaries`

    Raises:
        DataError: a split has fewer rows than a series
    """
    length = config.length
    assert length is not None
    ends, description = resolve_split_boundaries(tables, config)
    series_sets: dict[str, SeriesSet] = {}
    notes = set[str]()
    for split, start, stop in zip(SPLITS, (0, *ends), ends, strict=False):
        if split in tables and split != "train":
            table, first_row = tables[split], 0
        else:
            whole = tables["train"]
            source = f"{whole.source}, rows {whole.count_file_rows(start) + 1} to {whole.count_file_rows(stop)}"
            table, first_row = replace(whole, source=source).select_rows(start, stop), start
        if table.note in notes:  # once for all splits
            table = replace(table, note="")
        notes.add(table.note)
        stride = config.stride or length if split == "train" else length
        if table.sample_labels is not None and split == "train":
            table = replace(table, note="; ".join(filter(None, (table.note, description))))
        series_sets[split] = cut_table(table, length, stride, first_row)
    return series_sets


def cut_table(table: Table, length: int, stride: int, first_row: int = 0) -> SeriesSet:
    """Cut a table into series: all rows if they have a class, else see `extract_windows`."""
    if table.sample_labels is None:
        return extract_windows(table, length, stride, first_row)
    return cut_recordings(table_to_series(table), length, stride, first_row)


def extract_windows(table: Table, length: int, stride: int, first_row: int = 0) -> SeriesSet:
    """Return the series of `length` rows that begin every `stride` rows, except those without any sample.

    Their ids are the times at which they begin.

    Args:
        table: the rows
        length: rows of each series
        stride: rows from one series to the next
        first_row: place of the first row of the table in its file, from 0, if the table does not know it

    Raises:
        DataError: the table has fewer rows than `length`
    """
    if len(table.values) < length:
        raise DataError(f"{table.source}: {len(table.values)} rows, and --length {length}; give less")
    num_series = (len(table.values) - length) // stride + 1
    require_memory(
        2 * 4 * num_series * length * table.values.shape[1],
        f"{table.source}: {num_series:,} series of --length {length}",
        "give a larger --stride",
    )
    x = np.lib.stride_tricks.sliding_window_view(table.values, length, axis=0)[::stride]
    is_empty = np.isnan(x).all((1, 2))
    num_unused = len(table.values) - (num_series - 1) * stride - length
    notes = [table.note] * bool(table.note)
    notes += [f"{table.source}: {is_empty.sum()} series without a sample are left out"] * bool(is_empty.any())
    notes += [f"{table.source}: the last {num_unused} rows are left out, as they fill no series"] * (num_unused > 0)
    starts = np.flatnonzero(~is_empty) * stride
    return SeriesSet(
        np.ascontiguousarray(x[~is_empty]),
        table.source,
        channels=table.channels,
        note="; ".join(notes),
        ids=None if table.times is None else table.times[starts].write(),
        rows=first_row + starts if table.file_rows is None else table.file_rows[starts],
    )
