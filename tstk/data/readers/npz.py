"""Reader of `.npz`: X [N, C, T] or [N, T], with y, groups, channels and classes. Pickles are never loaded.

A file holds one split (`X`, `y`) or several (`X_train`, `y_train`, `X_test`, ...). A large X that is not compressed
stays in its file.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tstk.data import lazy_array
from tstk.data.catalog import SERIES_ARRAY_NAMES
from tstk.data.containers import SeriesSet, normalize_label
from tstk.data.lazy_array import read_or_map
from tstk.errors import DataError, did_you_mean

LABEL_ARRAY_NAMES = ("y", "labels", "label")
GROUP_ARRAY_NAMES = ("groups", "group", "subject", "subjects")

MAX_EXPANSION_RATIO = 200
"""Maximum compression ratio of a large array, against zip bombs; measured series stay far below it."""

Array = NDArray[Any]
ArrayOpeners = Mapping[str, Callable[[], Array]]


def read(path: Path, *, label_column: str | None = None) -> dict[str, SeriesSet]:
    """Read the splits of one file; arrays without "_train", "_val" or "_test" in their names are split "train".

    Args:
        path: a file that ends in .npz
        label_column: the array that holds the labels, if it is not called y, labels or label

    Raises:
        DataError: the file is damaged, holds Python objects, or its shapes disagree
    """
    arrays = open_arrays(path)
    names = (label_column,) if label_column is not None else LABEL_ARRAY_NAMES
    metadata = {name: arrays[name]() for name in ("classes", "channels") if name in arrays}
    splits = {}
    for split, suffix in (("train", ""), ("train", "_train"), ("val", "_val"), ("test", "_test")):
        if (x := _find_array(arrays, SERIES_ARRAY_NAMES, suffix)) is not None:
            y = _find_array(arrays, names, suffix)
            if label_column is not None and y is None:
                name = label_column + suffix
                hint = did_you_mean(name, arrays)
                raise DataError(f"{path}: no array called {name!r}; it holds: {', '.join(arrays)}.{hint}")
            groups = _find_array(arrays, GROUP_ARRAY_NAMES, suffix)
            splits[split] = build_series_set(x, y and y(), groups and groups(), metadata, str(path))
    if not splits:
        raise DataError(
            f"{path}: no array called X (or x, data, samples; or X_train and X_test); it holds: {', '.join(arrays)}"
        )
    return splits


def open_arrays(path: Path) -> ArrayOpeners:
    """Return a function per array that returns it: memory-mapped if it is large and not compressed, else from memory.

    Raises:
        DataError: the file is damaged, holds Python objects, or looks like a zip bomb
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                if file.read(6) == np.lib.format.MAGIC_PREFIX:
                    raise DataError(
                        f"{path}: a single array, not an archive; save it with numpy.savez(path, X=..., y=...)"
                    )
            raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as file:
            members = {info.filename.removesuffix(".npy"): info for info in (file.zip.infolist() if file.zip else ())}
            return {name: _build_opener(path, file, members[name]) for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, struct.error, OverflowError):
        raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None
    except MemoryError:
        raise DataError(
            f"{path}: larger than memory; save it with numpy.savez, not compressed, and it can stay in its file"
        ) from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None
        raise DataError(
            f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
        ) from None


def _build_opener(path: Path, file: Any, member: zipfile.ZipInfo) -> Callable[[], Array]:
    if member.compress_type == zipfile.ZIP_STORED and 4 * member.file_size > lazy_array.MAX_IN_MEMORY_BYTES:
        opener = partial(_map_member, path, member.header_offset)
        opener()  # report a damaged array now, not at the first read
        return opener
    if (
        member.file_size > lazy_array.MAX_IN_MEMORY_BYTES
        and member.file_size > MAX_EXPANSION_RATIO * member.compress_size
    ):
        raise DataError(
            f"{path}: {member.filename} expands {member.compress_size:,} bytes to {member.file_size:,}, as zip bombs "
            "do; if this is intended, save it with numpy.savez, not compressed"
        )
    with file.zip.open(member) as stream:
        shape, _, dtype = _read_array_header(stream)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise zipfile.BadZipFile
    array = file[member.filename.removesuffix(".npy")]
    return lambda: array


def _map_member(path: Path, offset: int) -> Array:
    """Memory-map the array whose archive member begins at `offset`."""
    with path.open("rb") as file:
        file.seek(offset + 26)  # the local file header has 30 bytes, then the name and the extra field
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        file.seek(name_length + extra_length, 1)
        shape, is_fortran, dtype = _read_array_header(file)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array: shape, whether it is in Fortran order, and type."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("allow_pickle")
    return shape, is_fortran, dtype


def _find_array(arrays: ArrayOpeners, names: tuple[str, ...], suffix: str) -> Callable[[], Array] | None:
    return next((arrays[name + suffix] for name in names if name + suffix in arrays), None)


def build_series_set(
    x: Callable[[], Array], y: Array | None, groups: Array | None, metadata: Mapping[str, Array], source: str
) -> SeriesSet:
    """Build a set of series from arrays.

    Args:
        x: returns the samples [N, C, T] or [N, T], memory-mapped or in memory
        y: [N] labels
        groups: [N] names
        metadata: "channels" and "classes" where there are any
        source: the file, for messages

    Raises:
        DataError: the arrays are not numbers or do not fit together
    """
    dtype = x().dtype
    if dtype.kind not in "fiub":
        raise DataError(f"{source}: X holds {dtype}; expected numbers")
    classes = tuple(map(str, metadata["classes"].tolist())) if "classes" in metadata else ()
    return SeriesSet(
        x=read_or_map((lambda: x()[:, None]) if x().ndim == 2 else x),
        source=source,
        y=None if y is None else _labels_to_text(y, classes, source),
        groups=None if groups is None else [normalize_label(g) for g in _to_list(groups, "groups", source)],
        channels=tuple(map(str, metadata["channels"].tolist())) if "channels" in metadata else (),
        classes=classes,
    )


def _to_list(array: NDArray[Any], kind: str, source: str) -> list[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{source}: {kind} have shape {array.shape}; expected one per series")
    return array.tolist()


def _labels_to_text(y: NDArray[Any], classes: tuple[str, ...], source: str) -> list[str]:
    """Convert labels to text; integers are indices into `classes` if the file has them."""
    labels = _to_list(y, "labels", source)
    if not classes or y.dtype.kind not in "iu":
        names = {label: normalize_label(label) for label in set(labels)}  # one string object per class
        return [names[label] for label in labels]
    for i, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise DataError(
                f"{source}: label {label} of series {i + 1} is not an index into its {len(classes)} classes"
            )
    return [classes[label] for label in labels]
