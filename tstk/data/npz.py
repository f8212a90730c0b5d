"""Reader of `.npz`: X [N, C, T] or [N, T], and beside it y, groups, channels and classes. Pickles are never loaded.

A file holds one part (`X`, `y`) or several (`X_train`, `y_train`, `X_test`, ...).
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.raw import Raw, plain
from tstk.errors import DataError, did_you_mean

X = ("X", "x", "data", "samples")
Y = ("y", "labels", "label")
GROUPS = ("groups", "group", "subject", "subjects")

Arrays = dict[str, NDArray[Any]]


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The parts of one file; one without "_train" and "_test" in its names gives part "train".

    Args:
        path: a file that ends in .npz
        label: the array that holds the labels, if it is not called y, labels or label

    Raises:
        DataError: the file is damaged, holds Python objects, or its shapes disagree
    """
    arrays = _arrays(path)
    names = (label,) if label is not None else Y
    parts = {}
    for part, end in (("train", ""), ("train", "_train"), ("val", "_val"), ("test", "_test")):
        if (x := _first(arrays, X, end)) is not None:
            y = _first(arrays, names, end)
            if label is not None and y is None:
                hint = did_you_mean(label + end, arrays)
                raise DataError(f"{path}: no array called {label + end!r}; it holds: {', '.join(arrays)}.{hint}")
            parts[part] = _part(x, y, _first(arrays, GROUPS, end), arrays, str(path))
    if not parts:
        raise DataError(
            f"{path}: no array called X (or x, data, samples; or X_train and X_test); it holds: {', '.join(arrays)}"
        )
    return parts


def _arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: one bare array; save it with numpy.savez(path, X=..., y=...)")
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError):
        raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None
        raise DataError(
            f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
        ) from None


def _first(arrays: Arrays, names: tuple[str, ...], end: str) -> NDArray[Any] | None:
    return next((arrays[name + end] for name in names if name + end in arrays), None)


def _part(x: NDArray[Any], y: NDArray[Any] | None, groups: NDArray[Any] | None, arrays: Arrays, source: str) -> Raw:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{source}: X holds {x.dtype}; expected numbers")
    classes = tuple(map(str, arrays["classes"].tolist())) if "classes" in arrays else ()
    return Raw(
        x=(x[:, None] if x.ndim == 2 else x).astype(np.float32),
        source=source,
        y=None if y is None else _labels(y, classes, source),
        groups=None if groups is None else [plain(g) for g in _flat(groups, "groups", source)],
        channels=tuple(map(str, arrays["channels"].tolist())) if "channels" in arrays else (),
        classes=classes,
    )


def _flat(a: NDArray[Any], what: str, source: str) -> list[Any]:
    if a.ndim == 2 and a.shape[1] == 1:
        a = a[:, 0]
    if a.ndim != 1:
        raise DataError(f"{source}: {what} have shape {a.shape}; expected one per series")
    return a.tolist()


def _labels(y: NDArray[Any], classes: tuple[str, ...], source: str) -> list[str]:
    """Labels as text; whole numbers are looked up in `classes` if the file has them."""
    labels = _flat(y, "labels", source)
    if not classes or y.dtype.kind not in "iu":
        return [plain(label) for label in labels]
    for i, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise DataError(f"{source}: label {label} of series {i + 1} does not point into its {len(classes)} classes")
    return [classes[label] for label in labels]
