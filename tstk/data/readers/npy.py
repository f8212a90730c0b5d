"""Reader of folders of `.npy`: `X_train.npy`, `y_train.npy`, `X_test.npy`, ..., and `channels.npy`, `classes.npy`.

The arrays are those of an `.npz` file, each in a file of its own, and a large X stays in its file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.catalog import ARRAYS, END
from tstk.data.containers import Raw
from tstk.data.readers.npz import GROUPS, Y, part_of
from tstk.errors import DataError


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The series of one file `X.npy` or `X_PART.npy`, as part "train", with what lies beside it.

    Args:
        path: a file that ends in .npy and is called X, x, data or samples, then perhaps _train, _val or _test
        label: file that holds the labels, without its end and part, if it is not called y, labels or label

    Raises:
        DataError: an array is damaged, holds Python objects, or its shapes disagree
    """
    end = END.search(path.stem)
    rest = end[0] if end else ""
    if END.sub("", path.stem) not in ARRAYS:
        raise DataError(
            f"{path}: expected a file called {', '.join(ARRAYS)}, such as X_train.npy with y_train.npy beside it"
        )
    y = _beside(path, Y if label is None else (label,), rest)
    if label is not None and y is None:
        raise DataError(f"{path}: there is no {label}{rest}.npy beside it")
    common = {name: mapped(at) for name in ("classes", "channels") if (at := path.with_name(f"{name}.npy")).is_file()}
    mapped(path)  # here, where what is wrong with it can be said
    return {"train": part_of(lambda: mapped(path), y, _beside(path, GROUPS, rest), common, str(path))}


def mapped(path: Path) -> NDArray[Any]:
    """The array in a file, mapped and not read.

    Raises:
        DataError: it is no array, cut short, or holds Python objects
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError, OverflowError) as error:
        if "Array can't be memory-mapped: Python objects" in str(error):
            raise DataError(
                f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
            ) from None
        raise DataError(f"{path}: empty, cut short or not an npy array; write or fetch it again") from None


def _beside(path: Path, names: tuple[str, ...], rest: str) -> NDArray[Any] | None:
    found = (path.with_name(f"{name}{rest}.npy") for name in names)
    return next((mapped(one) for one in found if one.is_file()), None)
