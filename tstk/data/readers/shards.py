"""Reader of data sets in several files of one format, such as `part-0-of-8.parquet`, joined in order of name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tstk.data.catalog import read_file
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table, pad_series
from tstk.data.segmentation import merge_sample_labels
from tstk.data.shards import list_shards
from tstk.data.times import join_times
from tstk.errors import DataError
from tstk.files import check_readable

_NUM_NOTES = 3
"""Different notes of parts that are repeated; each may name its file."""


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet] | Table:
    """Read the files that a pattern matches, and join their series, or their rows if they are tables.

    Args:
        path: a pattern, such as `folder/part-*.parquet`
        roles: of columns, where names do not tell

    Raises:
        DataError: no file matches, one cannot be read, or they do not fit together
    """
    files = list_shards(path)
    parts: list[SeriesSet | Table] = []
    for file in files:
        check_readable(file)
        data = read_file(file, roles)
        if not isinstance(data, Table) and list(data) != ["train"]:
            raise DataError(f"{file}: holds {' and '.join(data)}; a part of a data set holds one split")
        parts.append(data if isinstance(data, Table) else data["train"])
    note = f"{path}: {len(files)} files are joined in order of their names, {files[0].name} to {files[-1].name}"
    tables = [part for part in parts if isinstance(part, Table)]
    series_sets = [part for part in parts if isinstance(part, SeriesSet)]
    if tables and series_sets:
        raise DataError(f"{path}: {tables[0].source} is a table, and {series_sets[0].source} a set of series")
    _check_channels([*tables, *series_sets])
    return _join_tables(tables, str(path), note) if tables else {"train": _join_series(series_sets, str(path), note)}


def _check_channels(parts: list[SeriesSet | Table]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.channels != first.channels:
            expected, present = (", ".join(p.channels) or "none with names" for p in (first, part))
            raise DataError(f"{part.source}: channels {present}; {first.source} has {expected}")


def _join_tables(tables: list[Table], source: str, note: str) -> Table:
    times = [table.times for table in tables if table.times is not None]
    if len(times) not in (0, len(tables)):
        bare = next(table.source for table in tables if table.times is None)
        raise DataError(f"{bare}: has no times, and other files of {source} have them")
    joined_times = join_times(times, source) if times else None
    labels = [(table.sample_labels, table.classes) for table in tables if table.sample_labels is not None]
    if len(labels) not in (0, len(tables)):
        bare = next(table.source for table in tables if table.sample_labels is None)
        raise DataError(f"{bare}: has no labels, and other files of {source} have them")
    values = np.concatenate([table.values for table in tables])
    table = Table(values, source, tables[0].channels, joined_times, _join_notes(note, tables))
    if not labels:
        return table
    merged, classes = merge_sample_labels(labels, max(len(codes) for codes, _ in labels))
    rows = [row[: len(codes)] for row, (codes, _) in zip(merged, labels, strict=True)]
    return replace(table, sample_labels=np.concatenate(rows), classes=classes)


def _join_series(parts: list[SeriesSet], source: str, note: str) -> SeriesSet:
    joined: dict[str, Any] = {}
    for name in ("y", "groups", "ids", "targets", "times", "sampling_rates", "sample_labels"):
        values = [getattr(part, name) for part in parts]
        missing = [part.source for part, value in zip(parts, values, strict=True) if value is None]
        if missing and len(missing) < len(parts):
            raise DataError(f"{missing[0]}: has no {name}, and other files of {source} have them")
        if not missing:
            joined[name] = np.concatenate(values) if name == "targets" else [v for value in values for v in value]
    x = pad_series([series for part in parts for series in part.x], source)
    classes = parts[0].classes if all(part.classes == parts[0].classes for part in parts) else ()
    if "sample_labels" in joined:
        labels = [(row, part.classes) for part in parts if part.sample_labels is not None for row in part.sample_labels]
        joined["sample_labels"], classes = merge_sample_labels(labels, x.shape[2])
    return SeriesSet(
        x,
        source,
        channels=parts[0].channels,
        classes=classes,
        target_names=parts[0].target_names,
        note=_join_notes(note, parts),
        **joined,
    )


def _join_notes(note: str, parts: Sequence[SeriesSet | Table]) -> str:
    """Return the notes of the first parts after that on their order, each once."""
    notes = list(dict.fromkeys(part.note for part in parts if part.note))
    more = [f"and {len(notes) - _NUM_NOTES} other notes on parts"] * (len(notes) > _NUM_NOTES)
    return "; ".join([note, *notes[:_NUM_NOTES], *more])
