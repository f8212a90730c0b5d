"""What else samples bring, from `.npz` files: states of a text, say, that belong to each series.

A file holds for each part either its states, `train` [N, S, D] or [N, D] (and `valid_train` [N, S], if not all count),
or which of some common `states` [U, S, D] (with `valid` [U, S]) each sample has: `train` [N], whole numbers. Likewise
for `val` and `test`. Rows are those of the part, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.data.containers import Raw
from tstk.data.datasets import Extra
from tstk.data.readers.npz import opened
from tstk.errors import DataError, OptionError

Arrays = Mapping[str, NDArray[Any]]


def extras(given: Sequence[str], raws: Mapping[str, Raw]) -> dict[str, dict[str, Extra]]:
    """Name -> part -> what its samples bring.

    Args:
        given: NAME=FILE each
        raws: the parts of the data

    Raises:
        OptionError: it is not of this form
        DataError: the file cannot be read, or does not fit the parts
    """
    found: dict[str, dict[str, Extra]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        path = Path(file).expanduser()
        if not equals or not name or path.suffix != ".npz":
            raise OptionError(f"--extra {text}: expected NAME=FILE.npz, such as text=notes.npz")
        if not path.is_file():
            raise DataError(f"--extra {text}: {path} cannot be read: there is no such file")
        arrays = {key: array() for key, array in opened(path).items()}
        found[name] = {part: _part(arrays, part, len(raw.x), str(path)) for part, raw in raws.items()}
    return found


def _part(arrays: Arrays, part: str, count: int, path: str) -> Extra:
    if part not in arrays:
        raise DataError(f"{path}: no array called {part!r} for that part; it holds: {', '.join(arrays)}")
    rows = arrays[part]
    if len(rows) != count:
        raise DataError(f"{path}: {part!r} is for {len(rows)} samples, and the part has {count}")
    if rows.dtype.kind in "iu" and rows.ndim == 1:
        if "states" not in arrays:
            raise DataError(f"{path}: {part!r} counts rows of an array 'states', which is not there")
        states, valid = arrays["states"], arrays.get("valid")
    else:
        states, valid, rows = rows, arrays.get(f"valid_{part}"), np.arange(count)
    states = states[:, None] if states.ndim == 2 else states
    valid = np.ones(states.shape[:2], bool) if valid is None else valid
    if states.ndim != 3 or states.dtype.kind != "f" or not np.isfinite(states).all():
        raise DataError(f"{path}: states are {states.dtype} {states.shape}; expected finite numbers [samples, S, D]")
    if valid.shape != states.shape[:2] or valid.dtype != bool:
        raise DataError(f"{path}: valid is {valid.dtype} {valid.shape}; expected bool {states.shape[:2]}")
    if rows.min() < 0 or rows.max() >= len(states):
        raise DataError(f"{path}: {part!r} reaches {rows.max()}, and there are {len(states)} states")
    return Extra(torch.from_numpy(states.astype(np.float32)), torch.from_numpy(valid), torch.from_numpy(rows).long())
