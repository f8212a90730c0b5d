"""Arrays larger than memory: the samples stay in their file, and indexing reads those that are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.floating[Any]]

MAX_IN_MEMORY_BYTES = 2**27
"""Size as float32 above which series stay in their file, if it can be memory-mapped."""

CHUNK_SAMPLES = 2**20
"""Samples per chunk when a whole set is scanned."""


class LazyArray:
    """Samples [N, C, T] in a file, of any numeric type; indexing reads them as float32, or as `dtype`.

    Args:
        open_array: returns the memory-mapped array [N, C, T]. It is called for each read, because pages that were read
            count as memory of the process until their mapping is closed
        indices: [M] series to select, in this order; None means all
        dtype: float32 or float64
        offset: [C] float64, subtracted from each channel as it is read
    """

    def __init__(
        self,
        open_array: Callable[[], NDArray[Any]],
        indices: NDArray[np.int64] | None = None,
        dtype: type[np.floating[Any]] = np.float32,
        offset: NDArray[np.float64] | None = None,
    ) -> None:
        self.open_array, self.indices, self.offset = open_array, indices, offset
        array = open_array()
        self.dtype, self.file_dtype = np.dtype(dtype), array.dtype
        self.shape = array.shape if indices is None else (len(indices), *array.shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Samples:
        first, *other_axes = key if isinstance(key, tuple) else (key,)
        if not isinstance(first, slice | int):
            first = np.asarray(first)
        if self.indices is not None:
            first = self.indices[first]
        samples = self.open_array()[(first, *other_axes)]
        with np.errstate(over="ignore"):  # an infinite sample is refused by `SeriesSet`
            return np.array(samples if self.offset is None else samples - self.offset[:, None], self.dtype)

    def __iter__(self) -> Iterator[Samples]:
        for chunk in iter_chunks(self):
            yield from chunk

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def select(self, index: Any) -> LazyArray:
        """Return the series at `index`, still in their file."""
        index = np.asarray(index)
        return LazyArray(
            self.open_array, index if self.indices is None else self.indices[index], self.dtype.type, self.offset
        )

    def astype(self, dtype: type[np.floating[Any]]) -> LazyArray:
        """Return the same samples, read as `dtype`."""
        return LazyArray(self.open_array, self.indices, dtype, self.offset)

    def subtract(self, offset: NDArray[np.float64] | None) -> LazyArray:
        """Return the same samples, less an offset [C] per channel."""
        return LazyArray(self.open_array, self.indices, self.dtype.type, offset)


def read_or_map(open_array: Callable[[], NDArray[Any]]) -> NDArray[Any] | LazyArray:
    """Read the array into memory, as its own type, or leave it in its file if it is large.

    Args:
        open_array: returns the array, memory-mapped or in memory
    """
    array = open_array()
    return LazyArray(open_array) if array.ndim == 3 and 4 * array.size > MAX_IN_MEMORY_BYTES else np.array(array)


def iter_chunks(x: Any) -> Iterator[Any]:
    """Iterate over the series [N, C, T] of an array, tensor or `LazyArray` in chunks [n, C, T], in order."""
    step = max(CHUNK_SAMPLES // max(int(np.prod(x.shape[1:])), 1), 1)
    for start in range(0, len(x), step):
        yield x[start : start + step]
