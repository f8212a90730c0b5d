"""Reader of folders of `.npy`: `X_train.npy`, `y_train.npy`, `X_test.npy`, ..., and `channels.npy`, `classes.npy`.

The arrays are those of an `.npz` file, each in a file of its own, and a large X stays in its file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.catalog import SERIES_ARRAY_NAMES, SPLIT_SUFFIX
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.data.readers.npz import (
    GROUP_ARRAY_NAMES,
    ID_ARRAY_NAMES,
    LABEL_ARRAY_NAMES,
    PICKLE,
    build_series_set,
    read_array_header,
)
from tstk.errors import DataError


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read one file `X.npy` or `X_SPLIT.npy` and the labels and metadata beside it, as split "train".

    Args:
        path: a file that ends in .npy and is called X, x, data or samples, then perhaps _train, _val or _test
        roles: of files, by stem without the split, where names do not tell

    Raises:
        DataError: an array is damaged, holds Python objects, or its shapes disagree
    """
    roles.reject(path, "yet", ("label",))
    label_column = roles.label
    match = SPLIT_SUFFIX.search(path.stem)
    suffix = match[0] if match else ""
    if SPLIT_SUFFIX.sub("", path.stem) not in SERIES_ARRAY_NAMES:
        raise DataError(
            f"{path}: expected a file called {', '.join(SERIES_ARRAY_NAMES)}, such as X_train.npy with y_train.npy "
            "beside it"
        )
    y = _map_sibling(path, LABEL_ARRAY_NAMES if label_column is None else (label_column,), suffix)
    if label_column is not None and y is None:
        raise DataError(f"{path}: there is no {label_column}{suffix}.npy beside it")
    metadata = {
        name: map_array(file) for name in ("classes", "channels") if (file := path.with_name(f"{name}.npy")).is_file()
    }
    map_array(path)  # report a damaged file now, not at the first read
    groups = _map_sibling(path, GROUP_ARRAY_NAMES, suffix)
    ids = _map_sibling(path, ID_ARRAY_NAMES, suffix)
    return {"train": build_series_set(lambda: map_array(path), y, groups, metadata, str(path), ids)}


def map_array(path: Path) -> NDArray[Any]:
    """Memory-map the array in a file.

    Raises:
        DataError: the file is not an array, is cut short, or holds Python objects
    """
    try:
        with path.open("rb") as file:
            shape, is_fortran, dtype = read_array_header(file)
            if file.tell() + math.prod(shape) * dtype.itemsize != path.stat().st_size:
                raise ValueError("the header claims another number of samples")
            return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
    except (ValueError, EOFError, OSError, OverflowError) as error:
        if str(error) == PICKLE:
            raise DataError(
                f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
            ) from None
        raise DataError(f"{path}: empty, cut short or not an npy array; write or fetch it again") from None


def _map_sibling(path: Path, names: tuple[str, ...], suffix: str) -> NDArray[Any] | None:
    files = (path.with_name(f"{name}{suffix}.npy") for name in names)
    return next((map_array(file) for file in files if file.is_file()), None)
