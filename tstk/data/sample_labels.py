"""Labels per sample, which say where a series is anomalous: from a file, a column of the data, or WFDB annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.annotations import BEATS, read_annotations
from tstk.data.containers import parse_floats
from tstk.data.readers.csv import read_frame
from tstk.data.readers.npy import map_array
from tstk.data.readers.npz import open_arrays
from tstk.errors import DataError, did_you_mean

NORMAL_BEATS = ("N", "L", "R", "e", "j")
"""Beats of the class "normal" of ANSI/AAMI EC57: normal, bundle branch block, atrial and nodal escape."""


def read_sample_labels(
    labels: str, data: Path, length: int, csv_options: Mapping[str, Any] | None = None
) -> NDArray[np.bool_]:
    """Read whether each sample is anomalous, [N, T] or [T] bool.

    Args:
        labels: a file (.npy or .npz with one array, .csv or .parquet with one column, or .atr, where beats that are not
            normal are anomalous), or the name of a column of the data; numbers other than 0 are anomalies, and missing
            ones are not
        data: the file of the data, if it is one
        length: samples of the series, to which beats are assigned
        csv_options: of the reader `csv`, by which the data were read

    Raises:
        DataError: there is no such file or column, or it cannot be read
    """
    path = Path(labels).expanduser()
    if not path.is_file():
        if data.is_file() and (csv_options is not None or data.suffix.lower() in (".csv", ".parquet")):
            return _read_column(data, labels, csv_options)
        raise DataError(
            f"--sample-labels {labels}: there is no such file, and {data} has no columns to look in; give a .npy, "
            ".npz, .csv, .parquet or .atr file"
        )
    suffix = path.suffix.lower()
    if suffix == ".atr":
        return _read_beats(path, length)
    if suffix in (".csv", ".parquet"):
        return _read_column(path, None)
    if suffix not in (".npy", ".npz"):
        kind = suffix or "files without a suffix"
        raise DataError(f"{path}: no labels in {kind}; expected .npy, .npz, .csv, .parquet or .atr")
    openers = open_arrays(path) if suffix == ".npz" else {path.stem: lambda: map_array(path)}
    if len(openers) != 1:
        raise DataError(f"{path}: holds {', '.join(openers) or 'no array'}; save the labels alone")
    array = next(iter(openers.values()))()
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DataError(
            f"{path}: an array of {array.dtype} with shape {list(array.shape)}; expected numbers, [samples]"
        )
    return np.asarray(np.nan_to_num(array) != 0)


def _read_column(path: Path, name: str | None, csv_options: Mapping[str, Any] | None = None) -> NDArray[np.bool_]:
    """Read a column of a text or .parquet file; the only one, or the last, if no name is given."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet_column(path, name)
    frame, _, _ = read_frame(path, **(csv_options or {}))
    if name is not None and name not in frame.names:
        raise DataError(
            f"{path}: no column called {name!r} for --sample-labels; it has "
            f"{', '.join(frame.names)}.{did_you_mean(name, frame.names)}"
        )
    column = len(frame.names) - 1 if name is None else frame.names.index(name)
    cells = [frame.number_format.to_plain(cell) for cell in frame.columns[column].to_pylist()]
    return np.asarray(np.nan_to_num(parse_floats(cells, f"{path}, column {frame.names[column]!r}")) != 0)


def _read_parquet_column(path: Path, name: str | None) -> NDArray[np.bool_]:
    """Read a column of a .parquet file; the only one, or the last, if no name is given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        header = pq.read_schema(path).names
        if name is not None and name not in header:
            raise DataError(
                f"{path}: no column called {name!r} for --sample-labels; it has "
                f"{', '.join(header)}.{did_you_mean(name, header)}"
            )
        column = pq.read_table(path, columns=[name or header[-1]]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({error}); write it again") from None
    cells = ["" if cell is None else str(int(cell) if isinstance(cell, bool) else cell) for cell in column.to_pylist()]
    return np.asarray(np.nan_to_num(parse_floats(cells, f"{path}, column {name or header[-1]!r}")) != 0)


def _read_beats(path: Path, length: int) -> NDArray[np.bool_]:
    """Read the annotations of a record, and return [length] bool, True around beats that are not normal."""
    found = read_annotations(path)
    if found.time_resolution is not None:
        raise DataError(f"{path}: its positions are in 1/{found.time_resolution:g} s, not in samples; convert it")
    beats = [i for i, symbol in enumerate(found.symbols) if symbol in BEATS]
    return label_beats(found.positions[beats], [found.symbols[i] for i in beats], length)


def label_beats(samples: NDArray[np.int64], symbols: list[str], length: int) -> NDArray[np.bool_]:
    """Return [length] bool, True around beats that are not normal: from halfway to the beat before to halfway after."""
    edges = np.concatenate([[0], (samples[1:] + samples[:-1]) // 2, [length]]) if len(samples) else np.zeros(1, int)
    labels = np.zeros(length, dtype=bool)
    for start, stop, symbol in zip(edges, edges[1:], symbols, strict=False):
        labels[start:stop] = symbol not in NORMAL_BEATS
    return labels
