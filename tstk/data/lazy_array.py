"""Series that stay in their file because they are larger than memory: a few of them are read at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LARGE = 2**27
"""Bytes as float32 above which series stay in a file that can be mapped."""

CHUNK = 2**20
"""Samples that are looked at together where a whole set is gone through."""


class Stored:
    """Samples [N, C, T] in a file, of any numeric type; indexing reads them as float32.

    Args:
        open: the array in the file [N, C, T], mapped and not read. It is opened anew for each reading, because what a
            process has mapped and looked at counts as its memory until it lets go of it
        rows: which of the N, in this order; None means all
    """

    def __init__(self, open: Callable[[], NDArray[Any]], rows: NDArray[np.int64] | None = None) -> None:
        self.open, self.rows = open, rows
        held = open().shape
        self.shape = held if rows is None else (len(rows), *held[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, where: Any) -> Floats:
        first, *rest = where if isinstance(where, tuple) else (where,)
        if not isinstance(first, slice | int):
            first = np.asarray(first)
        if self.rows is not None:
            first = self.rows[first]
        return np.array(self.open()[(first, *rest)], np.float32)

    def __iter__(self) -> Iterator[Floats]:
        for chunk in chunks(self):
            yield from chunk

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def take(self, index: Any) -> Stored:
        """Only the series at `index`, still in the file."""
        index = np.asarray(index)
        return Stored(self.open, index if self.rows is None else self.rows[index])


def held(open: Callable[[], NDArray[Any]]) -> Floats | Stored:
    """The array that `open` maps: in memory, or left in its file if it is large."""
    array = open()
    return Stored(open) if array.ndim == 3 and 4 * array.size > LARGE else np.array(array, np.float32)


def chunks(x: Any) -> Iterator[Any]:
    """Series [N, C, T] some at a time, in their order: of an array, a tensor or a store."""
    step = max(CHUNK // max(int(np.prod(x.shape[1:])), 1), 1)
    for at in range(0, len(x), step):
        yield x[at : at + step]
