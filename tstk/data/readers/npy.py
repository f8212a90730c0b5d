"""Reader of folders of `.npy`: `X_train.npy`, `y_train.npy`, `X_test.npy`, ..., and `channels.npy`, `classes.npy`.

The arrays are those of an `.npz` file, each in a file of its own, and a large X stays in its file.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tstk.data.arrays import ROLES, NamedArrays, build_series_set
from tstk.data.catalog import SERIES_ARRAY_NAMES, SPLIT_SUFFIX
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.data.readers.npz import PICKLE, read_array_header
from tstk.errors import DataError


def read(
    path: Path,
    roles: ColumnRoles = ColumnRoles(),
    *,
    axes: Literal["auto", "channels-first", "channels-last"] = "auto",
) -> dict[str, SeriesSet]:
    """Read one file `X.npy` or `X_SPLIT.npy` and the labels and metadata beside it, as split "train".

    Args:
        path: a file that ends in .npy and is called X, x, data or samples, then perhaps _train, _val or _test
        roles: of files, by stem without the split, where names do not tell
        axes: of samples in three axes: channels-first is (series, channels, samples); auto takes that, unless names of
            channels, or an axis four times as long as the other, say otherwise

    Raises:
        DataError: an array is damaged, holds Python objects, or its shapes disagree
    """
    roles.reject(path, "for arrays, whose samples are at equal distances", ROLES)
    match = SPLIT_SUFFIX.search(path.stem)
    suffix = match[0] if match else ""
    if SPLIT_SUFFIX.sub("", path.stem) not in SERIES_ARRAY_NAMES:
        raise DataError(
            f"{path}: expected a file called {', '.join(SERIES_ARRAY_NAMES)}, such as X_train.npy with y_train.npy "
            "beside it"
        )
    files = {file.stem: file for file in sorted(path.parent.glob("*.npy")) if file.stem != path.stem and file.is_file()}
    others = {f"{other}{suffix}" for other in SERIES_ARRAY_NAMES} - {path.stem}
    openers = {path.stem: partial(map_array, path)}
    openers |= {stem: partial(map_array, file) for stem, file in files.items() if stem not in others}
    map_array(path)  # report a damaged file now, not at the first read
    series_set = build_series_set(NamedArrays(openers, roles, str(path), suffix, axes=axes))
    if series_set is None:
        raise DataError(f"{path}: --drop-columns {','.join(roles.drop)} leaves no samples")
    return {"train": series_set}


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
