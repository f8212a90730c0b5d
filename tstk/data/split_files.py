"""Write the splits of a data set as files that `load_data` reads: arrays of series, or tables in time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tstk.data.catalog import SPLITS, locate
from tstk.data.config import SPLIT_OPTIONS, DataConfig
from tstk.data.containers import SeriesSet, Table
from tstk.data.convert import collect_notes, name_windows, write_arrays
from tstk.data.load import read_splits
from tstk.data.splits import Criterion, describe_held_out, find_default_criterion, hold_out
from tstk.data.windowing import cut_table, resolve_split_boundaries
from tstk.errors import DataError, FileError, OptionError
from tstk.files import atomic_folder, atomic_write, check_new_folder, format_csv, write_text

LABEL_NAME = "label"
"""Column of a table that holds the class of each row."""

_OUTPUT_FILE = re.compile(
    r"(?:X|y|groups|ids|targets)_(?:train|val|test)\.npy|(?:channels|classes|target_names)\.npy|(?:train|val|test)\.csv"
)


def split_data(
    name_or_path: str, out: str, config: DataConfig, *, by: Criterion | None = None, force: bool = False
) -> tuple[dict[str, int], list[str]]:
    """Divide a data set without a test split, and write its splits as files.

    Args:
        name_or_path: a name, file or folder, as for `load_data`
        out: a folder to create
        config: of its options, those of `SPLIT_OPTIONS`; `val_fraction` is a fraction of what is not held out to test
        by: how series are divided; by default by group if there are groups, else by class. Tables are divided in time
        force: replace the splits that an earlier call wrote

    Returns:
        split -> number of series or rows, and notes for the user

    Raises:
        DataError: the data cannot be read, or are too few
        OptionError: there is a test split already, no fraction is given, or an option cannot work with these data
        FileError: `out` exists, or cannot be written
    """
    config.reject_for_writing("for tstk data split", *SPLIT_OPTIONS)
    if config.test_fraction is None:
        raise OptionError("how much is to be held out? Give --test-fraction 0.2")
    path = Path(out).expanduser()
    _check_output(path, locate(name_or_path, config.data_root).files, force)
    splits = read_splits(name_or_path, config.data_root, config.roles, regularize=config.regularize)
    if list(splits) != ["train"]:
        raise OptionError(f"{name_or_path}: is divided already, into {', '.join(splits)}; give one file")
    data, series_sets, tables = splits["train"], dict[str, SeriesSet](), dict[str, Table]()
    if isinstance(data, SeriesSet):
        config.reject(f"here: {name_or_path} is a set of series", "length", "stride")
        series_sets, notes = _split_series(data, by or find_default_criterion(data), config)
    elif by not in (None, "time"):
        raise OptionError(f"--by {by} has no meaning here: {name_or_path} is a table, which is divided in time")
    else:
        tables, notes = _split_table(data, config)
        if config.length is not None:
            parts = _cut_parts(tables, config.length, config.stride)
            series_sets, tables = {split: name_windows(part, data.source) for split, part in parts.items()}, {}
            notes += [part.note for part in series_sets.values()]
            if "val" not in series_sets:
                notes.append(
                    "there is no validation split, so training would validate on neighbours of the series that it is "
                    "trained on; --val-fraction 0.2 holds out the rows that follow"
                )
    with atomic_folder(path, replace=force) as folder:
        write_arrays(series_sets, lambda name: atomic_write(folder / name))
        for split, table in tables.items():
            _write_table(folder / f"{split}.csv", table)
    sizes = {split: len(part.x) for split, part in series_sets.items()}
    return sizes | {split: len(table.values) for split, table in tables.items()}, collect_notes(notes)


def _check_output(path: Path, sources: Mapping[str, Path], force: bool) -> None:
    """Check that the folder can be written, and that nothing but earlier splits would be replaced."""
    if not (force and path.is_dir() and any(path.iterdir())):
        check_new_folder(path)
        return
    if others := [file.name for file in sorted(path.iterdir()) if not _OUTPUT_FILE.fullmatch(file.name)]:
        raise FileError(f"{path}: holds {others[0]}, which tstk data split does not write; choose another folder")
    for source in sources.values():
        if path.resolve() in (source.resolve(), *source.resolve().parents):
            raise FileError(f"{path}: holds {source.name}, which is to be divided; choose another folder")


def _split_series(data: SeriesSet, by: Criterion, config: DataConfig) -> tuple[dict[str, SeriesSet], list[str]]:
    """Divide series; return the splits, and notes on them."""
    assert config.test_fraction is not None
    notes = [data.note] if data.note else []
    rest, test = hold_out(data, config.test_fraction, config.split_seed, by)
    notes.append(f"test: {describe_held_out(data, test, by)}")
    parts = {"train": data.select(rest), "test": data.select(test)}
    if config.val_fraction:
        train = parts["train"]
        rest, val = hold_out(train, config.val_fraction, config.split_seed, by)
        notes.append(f"val: {describe_held_out(train, val, by)}")
        parts |= {"train": train.select(rest), "val": train.select(val)}
    for split, part in parts.items():
        if absent := sorted(_get_classes(data) - _get_classes(part)):
            kind = "series" if data.sample_labels is None else "sample"
            notes.append(f"no {kind} of class {', '.join(absent)} in {split}")
        if split != "train" and (shared := set(parts["train"].groups or ()) & set(part.groups or ())):
            notes.append(f"{len(shared)} groups occur both in train and in {split}, so scores on it are optimistic")
        if part.rows is not None and part.ids is None:
            parts[split] = replace(part, ids=[str(row) for row in part.rows.tolist()])
    if data.ids is None:
        notes.append(f"{data.source} has no ids, so the rows of the series in it, from 0, become their ids")
    return {split: parts[split] for split in SPLITS if split in parts}, notes


def _get_classes(data: SeriesSet) -> set[str]:
    """Return the names of the classes that occur."""
    if data.sample_labels is None:
        return set(data.y or ())
    return {data.classes[i] for i in np.unique(data.sample_labels).tolist() if i >= 0}


def _split_table(data: Table, config: DataConfig) -> tuple[dict[str, Table], list[str]]:
    """Divide the rows of a table in time; return the splits that have rows, and notes on them."""
    if data.times is None and data.sample_labels is None and config.length is None:
        raise DataError(
            f"{data.source}: a table without times, which a .csv file cannot say; give --length to cut it into series"
        )
    if data.sample_labels is not None and LABEL_NAME in data.channels and config.length is None:
        raise DataError(
            f"{data.source}: a channel is called {LABEL_NAME!r}, as the classes of the rows would be; rename it, or "
            "give --length to cut the table into series"
        )
    if config.length is None:
        config.reject(f"here without --length, which cuts {data.source} into series", "stride")
    config = config if config.val_fraction is not None else replace(config, val_fraction=0.0)
    ends, description = resolve_split_boundaries({"train": data}, config)
    parts = {}
    for split, start, stop in zip(SPLITS, (0, *ends), ends, strict=False):
        if stop > start:
            source = f"{data.source}, rows {data.count_file_rows(start) + 1} to {data.count_file_rows(stop)}"
            parts[split] = replace(data, source=source, note="").select_rows(start, stop)
    return parts, [data.note, description]


def _cut_parts(tables: Mapping[str, Table], length: int, stride: int | None) -> dict[str, SeriesSet]:
    """Cut tables that follow each other into series, those of training `stride` rows apart."""
    series_sets, first_row = {}, 0
    for split, table in tables.items():
        step = stride or length if split == "train" else length
        series_sets[split] = cut_table(table, length, step, first_row)
        first_row += len(table.values)
    return series_sets


def _write_table(path: Path, table: Table) -> None:
    """Write a table with its times and the classes of its rows, whose numbers are read back to the bit."""
    columns: dict[str, Iterable[str]] = {} if table.times is None else {"date": table.times.write()}
    for channel, values in zip(table.channels, table.values.T, strict=True):
        columns[channel] = ("" if np.isnan(value) else str(value) for value in values)
    if table.sample_labels is not None:
        names = (*table.classes, "")  # the last is that of -1
        columns[LABEL_NAME] = (names[label] for label in table.sample_labels.tolist())
    write_text(path, format_csv([list(columns), *zip(*columns.values(), strict=True)]))
