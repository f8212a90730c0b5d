"""Labels per sample, which say where a series is anomalous: from a file, a column of the data, or WFDB annotations."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import parse_floats, read_lines
from tstk.errors import DataError, did_you_mean

BEATS = {
    1: "N",
    2: "L",
    3: "R",
    4: "a",
    5: "V",
    6: "F",
    7: "J",
    8: "A",
    9: "S",
    10: "E",
    11: "j",
    12: "/",
    13: "Q",
    25: "B",
    30: "?",
    34: "e",
    35: "n",
    38: "f",
    41: "r",
}
"""Codes of annotations that mark a beat -> their symbols."""
NORMAL_BEATS = ("N", "L", "R", "e", "j")
"""Beats of the class "normal" of ANSI/AAMI EC57: normal, bundle branch block, atrial and nodal escape."""
_SKIP, _NUM, _SUB, _CHAN, _AUX = 59, 60, 61, 62, 63


def read_sample_labels(labels: str, data: Path, length: int) -> NDArray[np.bool_]:
    """Read whether each sample is anomalous, [N, T] or [T] bool.

    Args:
        labels: a file (.npy or .npz with one array, .csv with one column, or .atr, where beats that are not normal are
            anomalous), or the name of a column of the data; numbers other than 0 are anomalies
        data: the file of the data, if it is one
        length: samples of the series, to which beats are assigned

    Raises:
        DataError: there is no such file or column, or it cannot be read
    """
    path = Path(labels).expanduser()
    if not path.is_file():
        if data.suffix.lower() == ".csv" and data.is_file():
            return _read_column(data, labels)
        raise DataError(
            f"--sample-labels {labels}: there is no such file, and {data} has no columns to look in; give a .npy, "
            ".npz, .csv or .atr file"
        )
    suffix = path.suffix.lower()
    if suffix == ".atr":
        return label_beats(*read_annotations(path), length)
    if suffix == ".csv":
        return _read_column(path, None)
    if suffix not in (".npy", ".npz"):
        raise DataError(f"{path}: no labels in {suffix or 'files without a suffix'}; expected .npy, .npz, .csv or .atr")
    try:
        content = np.load(path, allow_pickle=False)
        names = [] if isinstance(content, np.ndarray) else content.files
        array = content if isinstance(content, np.ndarray) else content[names[0]]
    except (OSError, ValueError, IndexError) as e:
        raise DataError(f"{path}: cannot be read ({e}); save one array of numbers") from None
    if len(names) > 1:
        raise DataError(f"{path}: holds {', '.join(names)}; save the labels alone")
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DataError(
            f"{path}: an array of {array.dtype} with shape {list(array.shape)}; expected numbers, [samples]"
        )
    return np.asarray(array != 0)


def _read_column(path: Path, name: str | None) -> NDArray[np.bool_]:
    """Read a column of a .csv file; the only one, or the last, if no name is given."""
    header, *rows = [row for row in csv.reader(read_lines(path)) if row]
    if name is not None and name not in header:
        raise DataError(f"{path}: no column called {name!r} for --sample-labels.{did_you_mean(name, header)}")
    column = -1 if name is None else header.index(name)
    cells = [row[column] for row in rows]
    return np.asarray(np.nan_to_num(parse_floats(cells, f"{path}, column {header[column]!r}")) != 0)


def read_annotations(path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Read the beats of an annotation file in the format of the MIT-BIH databases.

    Returns:
        the sample of each beat, and its symbol

    Raises:
        DataError: the file is cut short
    """
    data = path.read_bytes()
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2").tolist()
    time, position = 0, 0
    samples: list[int] = []
    symbols: list[str] = []
    while position < len(words):
        code, value = words[position] >> 10, words[position] & 0x3FF
        position += 1
        if code == value == 0:
            return np.array(samples, dtype=np.int64), symbols
        if code == _SKIP:
            if position + 2 > len(words):
                break
            interval = words[position] << 16 | words[position + 1]
            time += interval - (1 << 32) * (interval >> 31)
            position += 2
        elif code == _AUX:
            position += (value + 1) // 2
        elif code not in (_NUM, _SUB, _CHAN):
            time += value
            if code in BEATS:
                samples.append(time)
                symbols.append(BEATS[code])
    raise DataError(f"{path}: ends before its end mark; it is cut short or no annotation file, fetch it again")


def label_beats(samples: NDArray[np.int64], symbols: list[str], length: int) -> NDArray[np.bool_]:
    """Return [length] bool, True around beats that are not normal: from halfway to the beat before to halfway after."""
    edges = np.concatenate([[0], (samples[1:] + samples[:-1]) // 2, [length]]) if len(samples) else np.zeros(1, int)
    labels = np.zeros(length, dtype=bool)
    for start, stop, symbol in zip(edges, edges[1:], symbols, strict=False):
        labels[start:stop] = symbol not in NORMAL_BEATS
    return labels
