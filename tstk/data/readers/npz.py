"""Reader of `.npz`: X [N, C, T] or [N, T], with y, targets, groups, ids, channels and classes; never pickles.

A file holds one split (`X`, `y`) or several (`X_train`, `y_train`, `X_test`, ...). A large X that is not compressed
stays in its file.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from tstk.data import lazy_array
from tstk.data.arrays import ROLES, Array, ArrayOpeners, NamedArrays, build_series_set
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.data.memory import require_memory
from tstk.errors import DataError

MAX_EXPANSION_RATIO = 200
"""Maximum compression ratio of large arrays, against zip bombs; measured series stay far below it."""

CRC_BLOCK_BYTES = 2**20
"""Bytes read at a time to check the checksum of an array that stays in its file."""

_KEEP_IN_FILE = "save it with numpy.savez, not compressed, and it can stay in its file"
PICKLE = "array of Python objects"
"""Message of the ValueError that refuses a pickle."""
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, KeyError, ValueError, OverflowError, RuntimeError),
)
"""What zipfile and NumPy raise for archives that are damaged, encrypted or compressed in another way."""


def read(
    path: Path,
    roles: ColumnRoles = ColumnRoles(),
    *,
    axes: Literal["auto", "channels-first", "channels-last"] = "auto",
) -> dict[str, SeriesSet]:
    """Read the splits of one file; arrays without "_train", "_val" or "_test" in their names are split "train".

    Args:
        path: a file that ends in .npz
        roles: of arrays, where names do not tell
        axes: of samples in three axes: channels-first is (series, channels, samples); auto takes that, unless names of
            channels, or an axis four times as long as the other, say otherwise

    Raises:
        DataError: the file is damaged, holds Python objects, or its shapes disagree
    """
    roles.reject(path, "for arrays, whose samples are at equal distances", ROLES)
    openers, splits = open_arrays(path), {}
    for split, suffix in (("train", "_train"), ("train", ""), ("val", "_val"), ("test", "_test")):
        series_set = (
            None if split in splits else build_series_set(NamedArrays(openers, roles, str(path), suffix, axes=axes))
        )
        if series_set is not None:
            splits[split] = series_set
    if not splits:
        raise DataError(
            f"{path}: no array called X (or x, data, samples; or X_train and X_test); it holds: {', '.join(openers)}"
        )
    return splits


def open_arrays(path: Path) -> ArrayOpeners:
    """Return a function per array that returns it: memory-mapped if it is large and not compressed, else from memory.

    The checksum of every array is checked here, once, also of those that stay in their file.

    Raises:
        DataError: the file is damaged, holds Python objects, is larger than memory, or looks like a zip bomb
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{path}: a single array, not an archive; save it with numpy.savez(path, X=..., y=...)")
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            _check_size(path, [member for member in members.values() if not _can_map(member)])
            return {name: _build_opener(path, archive, member) for name, member in members.items()}
    except MemoryError:
        raise DataError(f"{path}: larger than memory; {_KEEP_IN_FILE}") from None
    except _DAMAGE as error:
        if str(error) == PICKLE:
            raise DataError(
                f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
            ) from None
        raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None


def _can_map(member: zipfile.ZipInfo) -> bool:
    return member.compress_type == zipfile.ZIP_STORED and 4 * member.file_size > lazy_array.MAX_IN_MEMORY_BYTES


def _check_size(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse arrays that are read into memory if they are larger than that, or than measured series could be."""
    size, compressed_size = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if size > lazy_array.MAX_IN_MEMORY_BYTES and size > MAX_EXPANSION_RATIO * compressed_size:
        raise DataError(
            f"{path}: its arrays expand {compressed_size:,} bytes to {size:,}, as zip bombs do; if this is intended, "
            + _KEEP_IN_FILE
        )
    require_memory(2 * size, f"{path}: its arrays", _KEEP_IN_FILE)


def _build_opener(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], Array]:
    with archive.open(member) as stream:
        shape, is_fortran, dtype = read_array_header(stream)
        start = stream.tell()
        if start + math.prod(shape) * dtype.itemsize != member.file_size:
            raise zipfile.BadZipFile
        if not _can_map(member):
            stream.seek(0)
            array = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read()  # to the end, where the checksum is compared
            return lambda: array
        while stream.read(CRC_BLOCK_BYTES):
            pass
    offset = _find_content(path, member) + start
    return partial(np.memmap, path, dtype, "r", offset, shape, "F" if is_fortran else "C")


def _find_content(path: Path, member: zipfile.ZipInfo) -> int:
    """Return the place in the file at which the bytes of a stored member begin."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # the local file header has 30 bytes, then the name and the extra field
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + name_length + extra_length


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array: shape, whether it is in Fortran order, and type.

    Raises:
        ValueError: it is damaged, or the array holds Python objects
    """
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that Python 2 wrote
            shape, is_fortran, dtype = read_header(file)
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"header: {error}") from None
    if dtype.hasobject:
        raise ValueError(PICKLE)
    if any(size < 0 for size in shape):
        raise ValueError("header: negative size")
    return shape, is_fortran, dtype
