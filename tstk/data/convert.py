"""Convert data of any supported format to NumPy arrays: an `.npz` archive, or a folder of `.npy` files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.catalog import SPLITS
from tstk.data.config import CONVERT_OPTIONS, DataConfig
from tstk.data.containers import SeriesSet, Table
from tstk.data.download import ProgressCallback
from tstk.data.lazy_array import iter_chunks
from tstk.data.load import read_splits
from tstk.data.segmentation import recode_labels
from tstk.data.windowing import cut_tables
from tstk.errors import DataError, OptionError
from tstk.files import atomic_folder, atomic_write, check_new_file, check_new_folder


def convert(
    name_or_path: str,
    out: str,
    config: DataConfig = DataConfig(),
    on_progress: ProgressCallback = lambda done, total: None,
    *,
    force: bool = False,
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Write the splits of a data set as arrays X_train, y_train, ... that `load_data` reads again.

    With a task that has a class per sample, y [N, T] holds the class of each, and recordings keep their length. Values
    are not scaled; they are float32, or float64 where float32 cannot tell samples apart. A table is split in time
    first; other data keep the splits of their files.

    Args:
        name_or_path: a name, file or folder, as for `load_data`
        out: a file that ends in .npz, or a folder to create
        config: of its options, those of `CONVERT_OPTIONS`
        on_progress: called with the number of series written and their total number
        force: replace an existing archive; folders are never replaced

    Returns:
        split -> shape of its X, and notes for the user

    Raises:
        UnknownNameError: no data set has this name
        DataError: the data cannot be read or are a table without `length`
        FileError: `out` exists, or cannot be written
        OptionError: `out` is neither an archive nor a folder, or an option cannot work with these data
    """
    path = Path(out).expanduser()
    if path.suffix not in (".npz", ""):
        raise OptionError(f"{out}: expected a file that ends in .npz, or a folder (a name without a dot)")
    if path.suffix:
        check_new_file(path, force)
    else:
        check_new_folder(path)
    config.reject_for_writing("for a conversion", *CONVERT_OPTIONS)
    splits = read_splits(name_or_path, config.data_root, config.roles, regularize=config.regularize)
    series_sets = _to_series_sets(name_or_path, splits, config)
    if path.suffix:
        with atomic_write(path, replace=force) as file, zipfile.ZipFile(file, "w") as archive:
            write_arrays(series_sets, lambda name: archive.open(name, "w", force_zip64=True), on_progress)
    else:
        with atomic_folder(path) as folder:
            write_arrays(series_sets, lambda name: (folder / name).open("xb"), on_progress)
    notes = [series_set.note for series_set in series_sets.values()]
    return {split: tuple(series_set.x.shape) for split, series_set in series_sets.items()}, collect_notes(notes)


def _to_series_sets(
    name_or_path: str, splits: dict[str, SeriesSet | Table], config: DataConfig
) -> dict[str, SeriesSet]:
    tables = {split: data for split, data in splits.items() if isinstance(data, Table)}
    if tables:
        if config.length is None:
            raise DataError(f"{name_or_path}: a table, not series; give --length to cut it, or keep the file")
        parts = cut_tables(tables, config)
        return {split: name_windows(part, tables.get(split, tables["train"]).source) for split, part in parts.items()}
    config.reject(f"here: {name_or_path} is a set of series", "length", "stride")
    return {split: data for split in SPLITS if isinstance(data := splits.get(split), SeriesSet)}


def name_windows(series_set: SeriesSet, recording: str) -> SeriesSet:
    """Return the windows of a table with its file as their group, and with the rows at which they begin as ids.

    Windows that have ids, which are times, keep them.

    Args:
        series_set: the windows
        recording: the file
    """
    series_set = replace(series_set, groups=[Path(recording).name] * len(series_set.x))
    if series_set.ids is not None or series_set.rows is None:
        return series_set
    note = f"{series_set.source} has no ids, so the rows of the series in it, from 0, become their ids"
    return replace(
        series_set,
        ids=[str(row) for row in series_set.rows.tolist()],
        note="; ".join(filter(None, (series_set.note, note))),
    )


def collect_notes(notes: Iterable[str]) -> list[str]:
    """Return notes, each once, without empty ones."""
    return list(dict.fromkeys(filter(None, notes)))


def write_arrays(
    series_sets: dict[str, SeriesSet],
    open_file: Callable[[str], AbstractContextManager[IO[bytes]]],
    on_progress: ProgressCallback = lambda done, total: None,
) -> None:
    """Write series as arrays X_train, y_train, groups_train, ids_train, ..., channels and classes.

    A class per sample is an index into the classes, -1 where unknown.

    Args:
        series_sets: split -> its series
        open_file: opens a file of this name to write
        on_progress: called with the number of series written and their total number
    """
    arrays: dict[str, NDArray[Any]] = {}
    classes = tuple(dict.fromkeys(name for series_set in series_sets.values() for name in series_set.classes))
    for split, series_set in series_sets.items():
        labels = series_set.sample_labels
        metadata = {
            "channels": series_set.channels or _number_channels(series_set),
            "classes": classes,
            f"y_{split}": series_set.y if labels is None else recode_labels(labels, series_set.classes, classes),
            f"groups_{split}": series_set.groups,
            f"ids_{split}": series_set.ids,
            "target_names": series_set.target_names,
            f"targets_{split}": series_set.targets,
        }
        arrays |= {name: np.array(values) for name, values in metadata.items() if values is not None and len(values)}
    for name, array in arrays.items():
        with open_file(f"{name}.npy") as file:
            np.save(file, array, allow_pickle=False)
    done, total = 0, sum(len(series_set.x) for series_set in series_sets.values())
    for split, series_set in series_sets.items():
        with open_file(f"X_{split}.npy") as file:
            dtype = np.dtype(series_set.x.dtype).newbyteorder("<")
            header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(series_set.x.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for x in iter_chunks(series_set.x):
                file.write(np.ascontiguousarray(x, dtype).tobytes())
                done += len(x)
                on_progress(done, total)


def _number_channels(series_set: SeriesSet) -> tuple[str, ...]:
    """Return numbers as names of the channels where the order of the axes could not be told without."""
    _, num_channels, num_samples = series_set.x.shape
    return tuple(map(str, range(num_channels))) if num_channels >= num_samples else ()
